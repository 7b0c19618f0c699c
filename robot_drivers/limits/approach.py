"""The first motion after standing is slow until the set-point has met the command.

Commands that begin where the arm is are met at once and pass bit for bit: a joint that starts from rest at
8 rad/s^2 is 0.04 rad away after 0.1 s. A command that begins elsewhere, or runs away, is followed slowly.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.limit import Change, Motion
from robot_drivers.limits.velocity import VelocityLimit

MET_RAD = 0.05
"""Distance from the command at which it is met (spec robot_ros2.md section 6)."""

MET_S = 0.1
"""... for this long: an interpolated plan that begins elsewhere leaves the arm in small steps, too."""


class ApproachLimit:
    """At most `speed_rad_s` in every joint, from rest until the command has been met; grippers are free."""

    name = "approach"

    def __init__(self, bounds: Bounds, speed_rad_s: float) -> None:
        if not speed_rad_s > 0:
            raise ValueError(f"approach_rad_s must be positive, inf for no approach, got {speed_rad_s}")
        slow = np.where(bounds.grippers, np.inf, speed_rad_s)
        self._slow = VelocityLimit(dataclasses.replace(bounds, velocity=slow))
        self._joints = ~bounds.grippers
        self._met_s = 0.0

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        if motion.begins:
            self._met_s = 0.0
        if self._met_s >= MET_S:
            return positions, None
        slowed, change = self._slow.apply(positions, motion)
        near = np.abs(positions - slowed)[self._joints].max(initial=0.0) < MET_RAD
        self._met_s = self._met_s + motion.dt_s if near else 0.0
        return slowed, change._replace(limit=self.name) if change else None
