"""A plan that begins far from where the arm is, or that leaps, is rejected whole.

This one looks at plans, not at single commands: the velocity limit would carry the arm along a wrong plan
slowly and safely, but a plan that jumps is a sign that its maker is lost.
"""

from __future__ import annotations

import numpy as np

from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.limit import Change


class JumpLimit:
    """First waypoint within `jump_rad` of the set-point (grippers: `gripper_jump` of their range; a tool's point:
    `jump_m`, its rotation: `jump_rad` in each of its six numbers), and no step between waypoints above 2 v_max dt."""

    name = "jump"

    def __init__(self, bounds: Bounds, jump_rad: float = 0.35, gripper_jump: float = 0.5, jump_m: float = 0.15) -> None:
        span = bounds.high - bounds.low
        self._first = np.select(
            [bounds.grippers, bounds.points, bounds.seen], [gripper_jump * span, jump_m, np.inf], jump_rad
        )
        self._velocity = bounds.velocity

    def check(self, set_point: np.ndarray, waypoints: np.ndarray, step_s: float) -> Change | None:
        """`set_point` (entries,) and `waypoints` (steps, entries) in SI units. `None`: the plan is sound; a
        verdict "hold": keep the plan before."""
        first = np.abs(waypoints[0] - set_point)
        between = np.abs(np.diff(waypoints, axis=0)).max(axis=0, initial=0.0)
        leaps = (first > self._first) | (between > 2 * self._velocity * step_s)
        if not leaps.any():
            return None
        amount = float(np.maximum(first, between)[leaps].max())
        return Change(self.name, tuple(np.flatnonzero(leaps).tolist()), amount, "hold")
