"""How rough the hand-overs from plan to plan are: jumps of velocity and acceleration in what was commanded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Seam(NamedTuple):
    """Largest jumps of any entry over all hand-overs; 0 without any."""

    velocity: float  # in units/s
    acceleration: float  # in units/s^2


def seam(positions: np.ndarray, handovers: Sequence[int], period_s: float) -> Seam:
    """Compare how a commanded trajectory moved before and after each hand-over (spec robot_ros2.md 9).

    `positions` (ticks, entries) are the commands before the limits, one every `period_s`, and row h of each hand-over
    is the first command of another plan. With v_k = (q_k - q_{k-1}) / T and a_k = (v_k - v_{k-1}) / T the jumps are
    |v_h - v_{h-1}| and the larger of |a_h - a_{h-1}| and |a_{h+1} - a_h|. Hand-overs with fewer than three rows before
    them, and the last row, tell nothing and are left out.

    A natural motion has jumps too, and a straight line between two actions turns at each of them: compare with `seam`
    of other ticks.
    """
    velocity = np.diff(positions, axis=0) / period_s  # row k: from k to k + 1
    turn = np.abs(np.diff(velocity, axis=0))  # row k: at k + 1
    kick = np.abs(np.diff(np.diff(velocity, axis=0), axis=0)) / period_s  # row k: between the turns k and k + 1
    at = np.array([h for h in handovers if 3 <= h < len(positions) - 1], dtype=int)
    if len(at) == 0:
        return Seam(0.0, 0.0)
    return Seam(float(turn[at - 2].max()), float(np.maximum(kick[at - 3], kick[at - 2]).max()))
