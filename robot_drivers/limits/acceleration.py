"""Set-points change their velocity gently, and always with room left to stop inside the joints' range.

With steps per tick s = q - q1, s1 = q1 - q2 and A = a_max dt^2 the limit is |s - s1| <= A. A joint that
moves by s and then brakes by A a tick needs at most s + (s - A/2)^2 / (2A) of room, so from a distance d to
a wall the largest step is

    reach(d) = max( min(d, A), sqrt(2 A d) - A/2 )

and after such a step the next one, s - A, obeys the same bound: the wall is never touched at speed. The same
bound keeps a set-point that has fallen behind its command from swinging past it: relative to a command that
moves by u a tick, it closes its lag e by at most reach(e).
"""

from __future__ import annotations

import numpy as np

from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.limit import TOLERANCE, Change, Motion
from robot_drivers.limits.position import usable_range

UNLIMITED = 1e12  # stands for an infinite acceleration, in 1/s^2: finite, so that no inf - inf arises


def reach(distance: np.ndarray, largest_change: np.ndarray) -> np.ndarray:
    """Largest step towards something `distance` >= 0 away that can still stop there."""
    far = np.sqrt(2 * largest_change * distance) - 0.5 * largest_change
    return np.maximum(far, np.minimum(distance, largest_change))


class AccelerationLimit:
    """|s - s1| <= a_max dt^2 joint by joint, with braking distance inside the position limits.

    Of the three bounds the range wins over the acceleration, and both win over catching up.
    """

    name = "acceleration"

    def __init__(self, bounds: Bounds, margin_rad: float) -> None:
        self._low, self._high = usable_range(bounds, margin_rad)
        self._acceleration = np.minimum(bounds.acceleration, UNLIMITED)

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        dt, sent = motion.dt_s, motion.sent
        largest_change = self._acceleration * (dt * dt)
        step_before = motion.velocity * dt
        step = positions - sent
        room_up, room_down = np.maximum(self._high - sent, 0.0), np.maximum(sent - self._low, 0.0)

        safe = self._without_passing(step, motion, largest_change)
        stoppable = reach(np.where(safe > 0, room_up, room_down), largest_change)
        safe = np.minimum(np.maximum(safe, -stoppable), stoppable)
        safe = np.minimum(np.maximum(safe, step_before - largest_change), step_before + largest_change)
        safe = np.minimum(np.maximum(safe, -room_down), room_up)

        change = np.abs(safe - step)
        altered = change > TOLERANCE
        if not altered.any():
            return positions, None
        limited = np.where(altered, sent + safe, positions)
        return limited, Change(self.name, tuple(np.flatnonzero(altered).tolist()), float(change.max()))

    def _without_passing(self, step: np.ndarray, motion: Motion, largest_change: np.ndarray) -> np.ndarray:
        """The step, less where it would swing past the command that the set-point has fallen behind."""
        goal_before = np.minimum(np.maximum(motion.wanted_before, self._low), self._high)
        lag = goal_before - motion.sent
        behind = np.abs(lag)
        if behind.max() <= TOLERANCE:
            return step
        goal = np.minimum(np.maximum(motion.wanted, self._low), self._high)
        sign = np.where(lag < 0, -1.0, 1.0)  # one formula for both sides: ahead is behind, mirrored
        closing = sign * (goal - goal_before) + reach(behind, largest_change)
        standing = reach(np.maximum(sign * (goal - motion.sent), 0.0), largest_change)
        return sign * np.minimum(sign * step, np.maximum(closing, standing))
