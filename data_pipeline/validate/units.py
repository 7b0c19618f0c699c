"""Units of an episode in unified slots: angles in rad, positions in m, openings in [0, 1], proper rotations.

A robot stays within a few radians and metres of its base, so numbers far beyond that are in other units. What moves
within the small range alone (a degree, a millimetre) cannot be told apart and passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from data_pipeline.schema.embodiment import Embodiment, Joint
from data_pipeline.schema.layout import SLOT_BLOCKS, SLOT_NAMES
from data_pipeline.validate.findings import Finding, Severity, Where
from data_pipeline.validate.records import ANGLE, ANGLE_RATE, GRIPPER, MOST_TURNS_RAD, POSITION, SPEED, Record

MOST_DEGREES = 720.0  # the same in degrees
MOST_REACH_M, MOST_REACH_CM = 5.0, 250.0
MOST_ANGLE_RATE, MOST_SPEED = 60.0, 20.0  # rad/s, m/s
GRIPPER_SLACK = 0.05  # a calibration is that good
RAW_GRIPPER = 0.5  # further outside [0, 1] than this: not an opening at all
_LIMITS = {
    ANGLE: (-MOST_TURNS_RAD, MOST_TURNS_RAD),
    ANGLE_RATE: (-MOST_ANGLE_RATE, MOST_ANGLE_RATE),
    POSITION: (-MOST_REACH_M, MOST_REACH_M),
    SPEED: (-MOST_SPEED, MOST_SPEED),
    GRIPPER: (-GRIPPER_SLACK, 1 + GRIPPER_SLACK),
}
"""What a column of a unit may hold."""

ROTATION_SLACK = 0.03
LIMIT_SLACK = 0.1  # rad or m beyond a joint's limits, for calibration
MIN_VELOCITY_CORRELATION = 0.8


def check_units(record: Record) -> Iterator[Finding]:
    """Each column by its own size; columns of one kind that are off in the same way are told once each."""
    for kind, columns in (("state", record.state), ("action", record.action)):
        for i in columns.of_units(*_LIMITS):
            values = columns.values[:, i]
            low, high = float(values.min()), float(values.max())
            told = _off(columns.units[i], low, high)
            if told is not None:
                severity, name, expected, advice = told
                steps = _outside(values, *_LIMITS[columns.units[i]])
                place = Where(episode=record.name, column=f"{kind} {columns.names[i]}", steps=steps)
                yield Finding(severity, name, place, expected, f"{low:.4g} .. {high:.4g}", advice)


def _off(unit: str, low: float, high: float) -> tuple[Severity, str, str, str] | None:
    """(severity, kind, expected, what to change) of a column that holds low .. high; None where it fits its unit."""
    size = max(-low, high)
    least, most = _LIMITS[unit]
    if least <= low and high <= most:
        return None
    if unit == ANGLE:
        looks = "degrees" if size <= MOST_DEGREES else "milliradians or encoder ticks"
        advice = "add `unit deg` to the rule (robot YAML: `unit: deg`)" if size <= MOST_DEGREES else "add a `scale`"
        return "error", "angle_units", f"radians within two turns; this looks like {looks}", advice
    if unit == ANGLE_RATE:
        return "error", "angle_units", "rad/s; this looks like deg/s", "add `unit deg` to the rule"
    if unit == POSITION:
        looks = "cm" if size <= MOST_REACH_CM else "mm"
        return "error", "position_units", f"metres; this looks like {looks}", f"add `unit {looks}` to the rule"
    if unit == SPEED:
        return "error", "position_units", "m/s; this looks like mm/s or cm/s", "add `unit mm` or `unit cm` to the rule"
    if low < -RAW_GRIPPER or high > 1 + RAW_GRIPPER:
        advice = "add `range [closed, open]` to the gripper's rule (robot YAML: state_range, action_range)"
        return "error", "gripper_units", "an opening, 0 closed to 1 open; these look like raw units", advice
    advice = "measure the closed and the open end and correct the gripper's `range`"
    return "warning", "gripper_range", "an opening in [0, 1]", advice


def check_rotations(record: Record) -> Iterator[Finding]:
    """The six numbers of a rotation are two columns of a matrix: of length 1 and at right angles."""
    for kind, columns in (("state", record.state), ("action", record.action)):
        where = {name: i for i, name in enumerate(columns.names)}
        for block in ("right_eef_rot6d", "left_eef_rot6d"):
            names = [SLOT_NAMES[slot] for slot in SLOT_BLOCKS[block]]
            if not all(name in where for name in names):
                continue
            six = columns.values[:, [where[name] for name in names]].reshape(-1, 2, 3)
            lengths = np.linalg.norm(six, axis=2)  # (steps, 2)
            off = np.abs(lengths - 1).max(axis=1) + np.abs((six[:, 0] * six[:, 1]).sum(axis=1))
            bad = np.flatnonzero(off > ROTATION_SLACK)
            if len(bad):
                step = int(bad[np.argmax(off[bad])])
                cosine = float(six[step, 0] @ six[step, 1])
                yield Finding(
                    "error",
                    "rotation",
                    Where(episode=record.name, column=f"{kind} {block}", steps=(int(bad[0]), int(bad[-1]))),
                    "two columns of length 1 at right angles",
                    f"{len(bad)} steps are not; at step {step} lengths {lengths[step, 0]:.3g} and "
                    f"{lengths[step, 1]:.3g}, product {cosine:.3g}",
                    "end the rule in `rot` with the right `in`, order and layout",
                )


def check_velocities(record: Record) -> Iterator[Finding]:
    """A velocity is the derivative of the position beside it: per-step differences and deg/s are off by a factor."""
    where = {name: i for i, name in enumerate(record.state.names)}
    for velocity, name in enumerate(record.state.names):
        position = where.get(_position_of(name))
        if position is None or record.rate_hz is None or record.num_steps < 20:
            continue
        slope = _slope(np.gradient(record.state.values[:, position]) * record.rate_hz, record.state.values[:, velocity])
        if slope is not None and not 1 / 3 < slope < 3:
            yield Finding(
                "warning",
                "velocity_scale",
                Where(episode=record.name, column=f"state {name}"),
                "the derivative of the position beside it",
                f"{slope:.3g} times that (1 / rate is {1 / record.rate_hz:.3g})",
                "per-step differences: add `per_step_to_rate`; another unit: `unit` or `scale`",
            )


def check_limits(record: Record, robot: Embodiment) -> Iterator[Finding]:
    """Measured joints cannot be where the robot's description says that they cannot go."""
    where = {name: i for i, name in enumerate(record.state.names)}
    for joint, slot in ((entry.part, entry.slot) for entry in robot.entries if isinstance(entry.part, Joint)):
        low, high = sorted(joint.sign * limit for limit in joint.limits)
        i = where.get(SLOT_NAMES[slot])
        if i is None:
            continue
        values = record.state.values[:, i]
        if np.abs(values).max() > MOST_TURNS_RAD:  # in other units, which `check_units` tells
            continue
        if values.min() < low - LIMIT_SLACK or values.max() > high + LIMIT_SLACK:
            yield Finding(
                "note",
                "joint_limits",
                Where(episode=record.name, column=f"state {record.state.names[i]}", steps=_outside(values, low, high)),
                f"{low:.4g} .. {high:.4g}, the limits of {robot.name}",
                f"{values.min():.4g} .. {values.max():.4g}",
                "check unit, sign and zero of the joint, or correct `limits` in the robot YAML",
            )


def _position_of(velocity: str) -> str:
    if "angular" in velocity:
        return ""  # 6-D rotations have no such derivative
    return velocity.replace("eef_vel_", "eef_pos_") if "eef" in velocity else velocity.replace("_vel", "_pos")


def _slope(x: np.ndarray, y: np.ndarray) -> float | None:
    """y = slope * x by least squares; None where the two are not of one motion."""
    x, y = x - x.mean(), y - y.mean()
    power = float(x @ x) * float(y @ y)
    if power < 1e-12 or float(x @ y) / math.sqrt(power) < MIN_VELOCITY_CORRELATION:
        return None
    return math.sqrt(float(y @ y) / float(x @ x))


def _outside(values: np.ndarray, low: float, high: float) -> tuple[int, int] | None:
    """The first and the last step that leave low .. high."""
    steps = np.flatnonzero((values < low) | (values > high))
    return (int(steps[0]), int(steps[-1])) if len(steps) else None
