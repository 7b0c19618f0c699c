"""An arm that does not follow its set-points is stuck or has hit something."""

from __future__ import annotations

import numpy as np

from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.limit import Change, Motion


class TrackingLimit:
    """Fault when a joint stays farther than `error_rad` from its set-point for `duration_s`.

    `amount` is the largest distance in rad. Grippers are left out: a closed hand never reaches its target.
    """

    name = "tracking"

    def __init__(self, bounds: Bounds, error_rad: float, duration_s: float) -> None:
        self._threshold = np.where(bounds.grippers, np.inf, error_rad)
        self._duration_s = duration_s
        self._elapsed_s = 0.0

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        error = np.abs(motion.sent - motion.measured)
        off = error > self._threshold
        if not off.any():
            self._elapsed_s = 0.0
            return positions, None
        self._elapsed_s += motion.dt_s
        if self._elapsed_s < self._duration_s:
            return positions, None
        entries = tuple(np.flatnonzero(off).tolist())
        return positions, Change(self.name, entries, float(error[off].max()), "fault")
