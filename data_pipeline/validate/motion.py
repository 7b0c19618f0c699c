"""How an episode moves: whether it does, when it begins to, single steps that no robot makes, angles that wrap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipeline.validate.findings import Finding, Where
from data_pipeline.validate.records import ANGLE, GRIPPER, MOST_TURNS_RAD, PLACES, POSITION, Columns, Record

MOVED = {ANGLE: 0.01, POSITION: 0.002, GRIPPER: 0.02}
"""What counts as motion: the reference's 0.01 rad, 2 mm, a fiftieth of an opening."""

STILL_START_S, STILL_START_SHARE = 2.0, 0.2
SPIKE_FLOOR = {ANGLE: 0.15, POSITION: 0.03}  # a smaller step is no spike, however still the rest is
SPIKE_RATIO = 4.0  # to the usual steps of the same column, those of the upper `USUAL` quantile
USUAL = 0.95
SPIKE_SHARE = 0.25  # of the range that columns of unknown unit have
MIN_STEPS = 20
SLOW_SENSOR_STEPS = 8  # so many steps that move are a motion, not spikes
MAX_SPIKES = 0.02  # more of them are how this column moves
_TURN = 2 * np.pi
_WRAP_SLACK = 0.15  # of a turn, that a joint may move in the step that wraps


def moving_steps(columns: Columns) -> np.ndarray:
    """bool (steps,): whether anything differs from step 0 by more than `MOVED`."""
    if columns.values.shape[1] == 0:
        return np.zeros(len(columns.values), dtype=bool)
    return (np.abs(columns.values - columns.values[:1]) > _thresholds(columns)).any(axis=1)


def check_motion(record: Record) -> Iterator[Finding]:
    """An episode that never moves teaches to stand still; a long still start teaches to wait."""
    if record.num_steps < 2 or record.state.values.shape[1] == 0:
        return
    moved = np.flatnonzero(moving_steps(record.state))
    last = record.num_steps - 1
    if len(moved) == 0:
        yield Finding(
            "warning",
            "still",
            Where(episode=record.name, steps=(0, last)),
            "a state that moves",
            f"nothing moves in {record.num_steps} steps",
            "leave the episode out, or check that the state is read and not repeated",
        )
        return
    first = int(moved[0])
    seconds = first / record.rate_hz if record.rate_hz else 0.0
    if first > STILL_START_SHARE * record.num_steps and seconds > STILL_START_S:
        yield Finding(
            "note",
            "still_start",
            Where(episode=record.name, steps=(0, first - 1)),
            f"motion within {STILL_START_S:g} s",
            f"the first {first} of {record.num_steps} steps are still ({seconds:.1f} s)",
            "`limits: {still_lead_eps: 0.01}` cuts them at conversion",
        )


def check_jumps(record: Record) -> Iterator[Finding]:
    """Wraps of an angle, and steps far outside the distribution of a column's own differences."""
    for kind, columns in (("state", record.state), ("action", record.action)):
        if len(columns.values) < MIN_STEPS:
            continue
        widths = np.ptp(columns.values, axis=0)
        least = SPIKE_SHARE * float(np.median(widths[widths > 0])) if (widths > 0).any() else 0.0
        for i in columns.of_units(*PLACES):
            values = columns.values[:, i]
            where = f"{kind} {columns.names[i]}"
            wraps = _wraps(values, columns.units[i])
            if len(wraps):
                at = int(wraps[0])
                yield Finding(
                    "warning",
                    "wrap_around",
                    Where(episode=record.name, column=where, steps=(at, at + 1)),
                    "an angle that goes on beyond half a turn",
                    f"{len(wraps)} jumps by a whole turn, first {values[at]:.4g} -> {values[at + 1]:.4g}",
                    "unwrap it when it is recorded (numpy.unwrap), or use the rotation's six numbers",
                )
                continue
            for at in _spikes(values, _floor(values, columns.units[i], least), columns.units[i] == ""):
                yield Finding(
                    "warning",
                    "spike",
                    Where(episode=record.name, column=where, steps=(at, at + 1)),
                    f"steps like its own others, {_usual(np.abs(np.diff(values))):.3g} at most usually",
                    f"{values[at]:.4g} -> {values[at + 1]:.4g} in one step",
                    "a lost or doubled message: cut the episode there, or leave it out",
                )


def _wraps(values: np.ndarray, unit: str) -> np.ndarray:
    """Steps after which an angle jumps by a turn, in rad or, where the unit is not known, in degrees."""
    jumps = np.abs(np.diff(values))
    turns = [_TURN] if unit == ANGLE else [360.0] if unit == "" else []
    within = [np.abs(jumps - turn) < _WRAP_SLACK * turn for turn in turns if np.ptp(values) < 1.05 * turn]
    return np.flatnonzero(within[0]) if within else np.zeros(0, dtype=np.int64)


def _floor(values: np.ndarray, unit: str, least: float) -> float:
    """The smallest jump that may be a spike; where the unit is not known, a share of what the columns move."""
    if unit not in SPIKE_FLOOR:
        return max(least, SPIKE_SHARE * float(np.quantile(values, 0.99) - np.quantile(values, 0.01)), 1e-6)
    in_degrees = unit == ANGLE and float(np.abs(values).max()) > MOST_TURNS_RAD  # a finding of its own
    return np.degrees(SPIKE_FLOOR[unit]) if in_degrees else SPIKE_FLOOR[unit]


def _spikes(values: np.ndarray, floor: float, must_return: bool) -> list[int]:
    """Steps after which a value jumps while the steps around are of the usual size.

    A column of unknown unit may be a gripper or a switch: there a jump must come back to be a spike.
    """
    steps = np.abs(np.diff(values))
    usual = _usual(steps)
    found = np.flatnonzero(steps > max(floor, SPIKE_RATIO * usual))
    if len(found) > max(2, MAX_SPIKES * len(steps)):
        return []
    if must_return:
        found = np.array([at for at in found if at + 2 < len(values) and _returns(values, int(at))], dtype=np.int64)
    alone = [at for at in found if _beside(steps, int(at)) < steps[at] / 4]
    return [int(at) for n, at in enumerate(alone) if n == 0 or at - alone[n - 1] > 2]


def _returns(values: np.ndarray, at: int) -> bool:
    return bool(abs(values[at + 2] - values[at]) < abs(values[at + 1] - values[at]) / 2)


def _usual(steps: np.ndarray) -> float:
    """The size of most steps. A sensor slower than the recording repeats its values: then of those that move."""
    moving = steps[steps > 0]
    stairs = SLOW_SENSOR_STEPS <= len(moving) < len(steps) / 2
    return float(np.quantile(moving if stairs else steps, USUAL - 0.05 if stairs else USUAL))


def _beside(steps: np.ndarray, at: int) -> float:
    """The larger step within two of a spike, the one back left out."""
    near = [steps[i] for i in (at - 2, at - 1, at + 2, at + 3) if 0 <= i < len(steps)]
    return max(near, default=0.0)


def _thresholds(columns: Columns) -> np.ndarray:
    """Of each column; of unknown units a thousandth of what it holds."""
    sizes = np.abs(columns.values).max(axis=0, initial=0.0)
    return np.array([MOVED.get(unit, 1e-3 * size + 1e-9) for unit, size in zip(columns.units, sizes, strict=True)])
