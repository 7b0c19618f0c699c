"""The one idea behind every limit: a wanted command and the present motion -> a safer command and a report.

    (positions, Motion) -> (safer positions, Change or None)

A limit that has nothing to say hands back the very array that it was given, so a safe command passes bit for
bit. Limits run in order, each on the answer of the one before; the first verdict other than "limited" ends
the row, and the guard brakes instead.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np

Verdict = Literal["limited", "hold", "fault"]

TOLERANCE = 1e-9
"""Excess in SI units that is rounding, not motion."""


class Change(NamedTuple):
    """What one limit did to one command."""

    limit: str  # name of the limit
    entries: tuple[int, ...]  # entries of the native vector that it concerns
    amount: float  # largest change in rad or gripper units; where nothing was changed, see the limit
    verdict: Verdict = "limited"  # "hold": brake and stand this tick; "fault": the same until reset
    words: str = ""  # for a person, where names and an amount do not say it


class Motion(NamedTuple):
    """What the arm has been told and has measured, all in command units, float64 (entries,)."""

    sent: np.ndarray  # the last set-point; before the first one, the measured position
    velocity: np.ndarray  # of the set-points, in 1/s
    wanted: np.ndarray  # this command before any limit
    wanted_before: np.ndarray  # the command before it, before any limit
    measured: np.ndarray  # the last finite measurement
    state_age_s: float  # from that measurement to the time that the command is meant for
    dt_s: float  # time that this command may take; <= 0 for a command that is not newer than the last
    begins: bool = False  # the arm has stood, or was told to hold, and this is the first command after it


class Limit(Protocol):
    """One rule that a command must satisfy."""

    name: str

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        """A command that satisfies the rule, and what had to change. Must not write into `positions`."""
        ...
