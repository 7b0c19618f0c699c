"""The numbers of a robot that limits are built from, as arrays over its native entries in SI units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data_pipeline.schema.embodiment import UNITS, Embodiment, Entry, Gripper, Joint
from data_pipeline.schema.layout import SLOT_UNITS

FREE = (-math.inf, math.inf, math.inf, math.inf)
"""Low, high, velocity and acceleration of what has none of its own: limits of a tool's pose are those of its joints."""


@dataclass(frozen=True)
class Bounds:
    """Per entry, in native order: joints in rad (or m), grippers in their own unit, a tool's point in m."""

    names: tuple[str, ...]
    low: np.ndarray  # float64 (entries,), from the robot YAML, without margin
    high: np.ndarray
    velocity: np.ndarray  # in 1/s, may be inf
    acceleration: np.ndarray  # in 1/s^2, may be inf
    grippers: np.ndarray  # bool (entries,)
    points: np.ndarray  # bool (entries,), of a tool's point
    seen: np.ndarray  # bool (entries,), joints that are measured and not commanded
    state_gain: np.ndarray  # command units = measured * gain + offset; differs from 1 at grippers only
    state_offset: np.ndarray
    unit: np.ndarray  # SI value of one native unit

    @classmethod
    def of(cls, robot: Embodiment, side: str | None = None) -> Bounds:
        """The bounds of one arm, or of all arms in the robot's native order."""
        entries = [entry for entry in robot.entries if side is None or entry.side == side]
        if not entries:
            raise ValueError(f"robot {robot.name!r} has arms {list(robot.arms)}, not {side!r}")
        rows = [_row(entry, seen=robot.control == "eef") for entry in entries]
        numbers = np.array([row[:4] + row[7:] for row in rows], dtype=np.float64).T
        low, high, velocity, acceleration, gain, offset, unit = numbers
        grippers, points, seen = np.array([row[4:7] for row in rows], dtype=bool).T
        names = tuple(f"{entry.side}_{entry.name}" for entry in entries)
        return cls(names, low, high, velocity, acceleration, grippers, points, seen, gain, offset, unit)

    @property
    def num_entries(self) -> int:
        return len(self.names)

    def as_command(self, measured: np.ndarray) -> np.ndarray:
        """A measured vector in the units of a command, for SI and for native joints alike."""
        return measured * self.state_gain + self.state_offset

    def describe(self, entries: tuple[int, ...]) -> str:
        return ", ".join(self.names[i] for i in entries)


def _row(entry: Entry, *, seen: bool) -> tuple[float, ...]:
    """The fields of one entry in the order of `Bounds`, after its name."""
    part = entry.part
    if isinstance(part, Joint):
        motion = (part.velocity_limit, part.acceleration_limit)
        return (*(FREE if seen else (*part.limits, *motion)), False, False, seen, 1, 0, UNITS[part.unit])
    if isinstance(part, Gripper):
        (s0, s1), (a0, a1) = part.state_range, part.action_range
        gain = (a1 - a0) / (s1 - s0)
        span = (min(a0, a1), max(a0, a1))
        speed = part.velocity_limit * (span[1] - span[0])
        return (*span, speed, math.inf, True, False, False, gain, a0 - s0 * gain, 1)
    return (*FREE, False, SLOT_UNITS[entry.slot] == "m", False, 1, 0, 1)
