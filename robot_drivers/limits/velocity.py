"""No joint is asked to move faster than it may, and the path stays the path that was asked for."""

from __future__ import annotations

import numpy as np

from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.limit import TOLERANCE, Change, Motion


class VelocityLimit:
    """|q - sent| <= v_max dt.

    All joints are scaled by the same factor, so the direction in joint space is kept; grippers are clamped
    one by one and slow nothing else down.
    """

    name = "velocity"

    def __init__(self, bounds: Bounds) -> None:
        self._velocity = bounds.velocity
        self._joints = ~bounds.grippers

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        step = positions - motion.sent
        largest = self._velocity * motion.dt_s
        size = np.abs(step)
        fast = size > largest + TOLERANCE
        if not fast.any():
            return positions, None
        slowed = np.minimum(np.maximum(step, -largest), largest)
        if fast[self._joints].any():
            ratio = size[self._joints] / largest[self._joints]
            slowed[self._joints] = step[self._joints] / ratio.max()
        change = np.abs(slowed - step)
        entries = tuple(np.flatnonzero(change > 0).tolist())
        return motion.sent + slowed, Change(self.name, entries, float(change.max()))
