"""Joints stay inside their range, grippers inside theirs."""

from __future__ import annotations

import numpy as np

from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.limit import Change, Motion


def usable_range(bounds: Bounds, margin_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """The range less a margin at both ends of each joint; grippers use all of theirs."""
    margin = np.where(bounds.grippers, 0.0, margin_rad)
    low, high = bounds.low + margin, bounds.high - margin
    if (low >= high).any():
        narrow = bounds.describe(tuple(np.flatnonzero(low >= high).tolist()))
        raise ValueError(f"a margin of {margin_rad} rad leaves no range for {narrow}: choose a smaller one")
    return low, high


class PositionLimit:
    """Clamp to [low + margin, high - margin]."""

    name = "position"

    def __init__(self, bounds: Bounds, margin_rad: float) -> None:
        self._low, self._high = usable_range(bounds, margin_rad)

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        clamped = np.minimum(np.maximum(positions, self._low), self._high)
        outside = clamped != positions
        if not outside.any():
            return positions, None
        amount = float(np.abs(clamped - positions).max())
        return clamped, Change(self.name, tuple(np.flatnonzero(outside).tolist()), amount)
