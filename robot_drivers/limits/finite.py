"""A command with a NaN or an infinity is no command."""

from __future__ import annotations

import numpy as np

from robot_drivers.limits.limit import Change, Motion, Verdict


class FiniteLimit:
    """Hold on a non-finite command, fault on the second in a row. `amount` counts them."""

    name = "finite"

    def __init__(self, fault_after: int = 2) -> None:
        self._fault_after = fault_after
        self._in_a_row = 0

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        finite = np.isfinite(positions)
        if finite.all():
            self._in_a_row = 0
            return positions, None
        self._in_a_row += 1
        verdict: Verdict = "fault" if self._in_a_row >= self._fault_after else "hold"
        entries = tuple(np.flatnonzero(~finite).tolist())
        return positions, Change(self.name, entries, float(self._in_a_row), verdict)
