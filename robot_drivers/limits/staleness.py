"""Nobody moves an arm whose position is unknown, and no old command is replayed."""

from __future__ import annotations

import math

import numpy as np

from robot_drivers.limits.limit import Change, Motion


class StalenessLimit:
    """Hold on a state that is too old or a command that is out of order; fault when the state stays away.

    `amount` is the age of the state in s, inf before the first one, which is waited for. Age is counted up to
    the time that the command is meant for: one period of the loop more than up to now.
    """

    name = "staleness"

    def __init__(self, hold_after_s: float, fault_after_s: float) -> None:
        if not 0 < hold_after_s <= fault_after_s:
            raise ValueError(
                f"staleness needs 0 < hold_after_s <= fault_after_s, got {hold_after_s} and {fault_after_s}"
            )
        self._hold_after_s = hold_after_s
        self._fault_after_s = fault_after_s

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        age = motion.state_age_s
        if age <= self._hold_after_s and motion.dt_s > 0:
            return positions, None
        lost = self._fault_after_s < age < math.inf
        return positions, Change(self.name, (), age, "fault" if lost else "hold")
