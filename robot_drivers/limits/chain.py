"""The row of limits that every command passes, and the few numbers that may be chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robot_drivers.limits.acceleration import AccelerationLimit
from robot_drivers.limits.approach import ApproachLimit
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.finite import FiniteLimit
from robot_drivers.limits.limit import Limit
from robot_drivers.limits.position import PositionLimit
from robot_drivers.limits.staleness import StalenessLimit
from robot_drivers.limits.tracking import TrackingLimit
from robot_drivers.limits.velocity import VelocityLimit
from robot_drivers.limits.workspace import Geometry, WorkspaceLimit


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """What is not a constant of the robot. The defaults are for real motors: whoever drives a simulated one in
    lockstep, where nothing can break and figures are compared, says so."""

    margin_rad: float = 0.05  # kept free at both ends of each joint's range
    hold_after_s: float = 0.1  # age of the joint state at which the arm holds
    fault_after_s: float = 0.5  # ... at which it stays so until reset
    tracking_rad: float = 0.3  # distance from the set-point that counts as stuck; inf: do not look
    tracking_s: float = 0.25  # for this long
    approach_rad_s: float = 0.3  # speed of the first motion until the command is met; inf: no approach
    residual_m: float = 0.01  # under control eef: a tool that stays farther from its pose is a hold
    residual_rad: float = 0.05  # the same for its rotation


SIMULATED = LimitSettings(approach_rad_s=math.inf)
"""For the embedded robot: its policies move at full speed from the first step on; the rest is as for real motors."""


def build_limits(bounds: Bounds, settings: LimitSettings, geometry: Geometry | None = None) -> tuple[Limit, ...]:
    """Who may say no comes first; of those that move a command, the last has the last word. The workspace, where it is
    known, judges what they have made of it."""
    limits: tuple[Limit, ...] = (
        StalenessLimit(settings.hold_after_s, settings.fault_after_s),
        FiniteLimit(),
        TrackingLimit(bounds, settings.tracking_rad, settings.tracking_s),
        PositionLimit(bounds, settings.margin_rad),
        ApproachLimit(bounds, settings.approach_rad_s),
        VelocityLimit(bounds),
        AccelerationLimit(bounds, settings.margin_rad),
    )
    return limits if geometry is None else (*limits, WorkspaceLimit(bounds, geometry))
