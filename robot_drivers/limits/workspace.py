"""Tool points stay in their box, and the arms stay apart, on the way to a stand, too.

Section 6 of spec robot_ros2.md holds the set-point where a command would leave the workspace. An arm that moves cannot
stand at once, so a command passes only if the arm could brake after it without leaving: then braking, whenever it has
to begin, goes where it has been looked. With velocity v after the command and deceleration a, per joint,

    q(t) = q + v t (1 - t / (2 t_stop)),   t_stop = |v| / a

is looked at in `LOOKS` times up to the longest t_stop; not at all where the room is more than the joints could use up
in braking, whichever way they turn, which is the common case and the cheap one. Between two looks a ViperX at its
limits leaves the path that they span by less than 1 cm: draw the box that much smaller.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.limit import TOLERANCE, Change, Motion

LOOKS = 4


class Geometry(Protocol):
    """Who knows where tools and links are; rules in an order of its own."""

    sway: np.ndarray  # float64 (rules, entries): room that each entry can use up at most, in m per rad; 0: none

    def room(self, positions: np.ndarray) -> np.ndarray:
        """How far every rule is from being broken, float64 (rules,) in m; negative: by how much it is."""
        ...


class WorkspaceLimit:
    """Hold where a command, or braking after it, would break a rule of the geometry. `amount` is by how much, in m.

    An arm that is outside already may move so that no rule is broken further.
    """

    name = "workspace"

    def __init__(self, bounds: Bounds, geometry: Geometry) -> None:
        self._geometry = geometry
        self._acceleration = bounds.acceleration
        self._fractions = np.linspace(0.0, 1.0, LOOKS + 1)[1:]

    def apply(self, positions: np.ndarray, motion: Motion) -> tuple[np.ndarray, Change | None]:
        room = self._geometry.room(positions)
        velocity = (positions - motion.sent) / motion.dt_s
        stop_s = np.abs(velocity) / self._acceleration
        if (room >= self._geometry.sway @ (0.5 * np.abs(velocity) * stop_s)).all():
            return positions, None
        least = room
        for look in self._fractions * stop_s.max():
            t = np.minimum(look, stop_s)
            ahead = positions + velocity * t * (1 - 0.5 * t / np.maximum(stop_s, 1e-12))
            least = np.minimum(least, self._geometry.room(ahead))
        if (least >= 0).all():
            return positions, None
        allowed = np.minimum(self._geometry.room(motion.sent), 0.0)
        broken = np.flatnonzero(least < allowed - TOLERANCE)
        if len(broken) == 0:
            return positions, None
        entries = np.flatnonzero(self._geometry.sway[broken].any(axis=0))
        return positions, Change(self.name, tuple(entries.tolist()), float(-least[broken].min()), "hold")
