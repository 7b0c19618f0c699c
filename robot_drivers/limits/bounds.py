"""The numbers of a robot that limits are built from, as arrays over its native entries in SI units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.schema.embodiment import UNITS, Embodiment


@dataclass(frozen=True)
class Bounds:
    """Per entry, in native order: joints in rad (or m), grippers in their own unit."""

    names: tuple[str, ...]
    low: np.ndarray  # float64 (entries,), from the robot YAML, without margin
    high: np.ndarray
    velocity: np.ndarray  # in 1/s, may be inf
    acceleration: np.ndarray  # in 1/s^2, may be inf
    grippers: np.ndarray  # bool (entries,)
    state_gain: np.ndarray  # command units = measured * gain + offset; differs from 1 at grippers only
    state_offset: np.ndarray
    unit: np.ndarray  # SI value of one native unit

    @classmethod
    def of(cls, robot: Embodiment, side: str | None = None) -> Bounds:
        """The bounds of one arm, or of all arms in the robot's native order."""
        rows: list[tuple[str, float, float, float, float, bool, float, float, float]] = []
        for name, arm in robot.arms.items():
            if side is not None and name != side:
                continue
            for joint in arm.joints:
                motion = (joint.velocity_limit, joint.acceleration_limit)
                rows.append((f"{name}_{joint.name}", *joint.limits, *motion, False, 1, 0, UNITS[joint.unit]))
            if arm.gripper:
                (s0, s1), (a0, a1) = arm.gripper.state_range, arm.gripper.action_range
                gain = (a1 - a0) / (s1 - s0)
                span = (min(a0, a1), max(a0, a1))
                speed = arm.gripper.velocity_limit * (span[1] - span[0])
                rows.append((f"{name}_gripper", *span, speed, np.inf, True, gain, a0 - s0 * gain, 1))
        if not rows:
            raise ValueError(f"robot {robot.name!r} has arms {list(robot.arms)}, not {side!r}")
        names = tuple(row[0] for row in rows)
        numbers = np.array([row[1:] for row in rows], dtype=np.float64).T
        low, high, velocity, acceleration, grippers, gain, offset, unit = numbers
        return cls(names, low, high, velocity, acceleration, grippers.astype(bool), gain, offset, unit)

    @property
    def num_entries(self) -> int:
        return len(self.names)

    def as_command(self, measured: np.ndarray) -> np.ndarray:
        """A measured vector in the units of a command, for SI and for native joints alike."""
        return measured * self.state_gain + self.state_offset

    def describe(self, entries: tuple[int, ...]) -> str:
        return ", ".join(self.names[i] for i in entries)
