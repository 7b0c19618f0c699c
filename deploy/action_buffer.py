"""The plan that is being executed: actions by time stamp, how a new chunk takes over, what follows the end.

Everything here is in the robot's native units; a chunk is converted once, when it arrives. The clock is the
caller's: the same calls at the same times give the same targets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk
from deploy.interpolate import brake, hermite, lerp, monotone_slopes, rows_at, smoothstep, stopping_time
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.jump import JumpLimit

Interpolation = Literal["linear", "cubic"]
Handover = Literal["switch", "blend", "ensemble", "rtc"]
Outcome = Literal[
    "accepted", "overrun", "out_of_order", "future", "not_finite", "wrong_robot", "jump", "failed", "ignored"
]

SLOPE_NS = 1_000_000  # the velocity of a plan is taken over this time back
ENSEMBLE_DECAY = 0.01  # ACT's m: weight exp(-m j) of the j-th oldest chunk
ENSEMBLE_CHUNKS = 64


class Target(NamedTuple):
    """Where the robot should be."""

    positions: np.ndarray  # native action units, float64 (num_native,)
    braking: bool  # the plan has ended: this is the way to a stand


class Splice(NamedTuple):
    """What became of a chunk."""

    outcome: Outcome
    kept: int = 0  # actions that were still to come
    dropped: int = 0  # actions that were already past
    detail: str = ""


class Plan:
    """Knots in time, from where the robot was to the last action; after that it brakes to a stand."""

    def __init__(
        self,
        times_ns: list[int],
        rows: np.ndarray,  # (knots, num_native)
        deceleration: np.ndarray,  # (num_native,), inf: stops at once
        *,
        slopes: np.ndarray | None = None,  # (knots, num_native) in 1/s: a cubic; None: straight lines
        straight: np.ndarray | None = None,  # entries that stay straight lines in a cubic
        end_velocity: np.ndarray | None = None,  # None: that of the last interval
        before: Plan | None = None,  # blended out between `blend_from_ns` and `blend_ns` later
        blend_ns: int = 0,
        blend_from_ns: int = 0,
    ) -> None:
        self.times_ns, self._rows, self._slopes, self._straight = times_ns, rows, slopes, straight
        self._before, self._blend_ns, self._blend_from_ns = before, blend_ns, blend_from_ns
        self._deceleration = deceleration
        if end_velocity is None:
            end_velocity = np.zeros(rows.shape[1])
            if slopes is not None:
                end_velocity = slopes[-1]
            elif len(rows) > 1:
                end_velocity = (rows[-1] - rows[-2]) / ((times_ns[-1] - times_ns[-2]) * 1e-9)
        self._end_velocity = end_velocity
        self.end_ns = times_ns[-1]
        self.rest_ns = self.end_ns + int(stopping_time(end_velocity, deceleration).max() * 1e9)

    def at(self, t_ns: int) -> np.ndarray:
        """The target at any time: the first row before the plan, at rest after it."""
        positions = self._own(t_ns)
        if self._before is not None and t_ns < self._blend_from_ns + self._blend_ns:
            share = smoothstep((t_ns - self._blend_from_ns) / self._blend_ns)
            positions = lerp(self._before.at(t_ns), positions, share)
        return positions

    def velocity(self, t_ns: int) -> np.ndarray:
        """Units per second, just before `t_ns`."""
        return (self.at(t_ns) - self.at(t_ns - SLOPE_NS)) / (SLOPE_NS * 1e-9)

    def forget_before(self, now_ns: int) -> None:
        """Let go of plans that have been blended out."""
        if now_ns >= self._blend_from_ns + self._blend_ns:
            self._before = None
        elif self._before is not None:
            self._before.forget_before(now_ns)

    def _own(self, t_ns: int) -> np.ndarray:
        times, rows = self.times_ns, self._rows
        if t_ns >= self.end_ns:
            elapsed_s = (t_ns - self.end_ns) * 1e-9
            return brake(rows[-1], self._end_velocity, self._deceleration, elapsed_s)
        if t_ns <= times[0]:
            return rows[0]
        i = bisect_right(times, t_ns) - 1
        width_ns = times[i + 1] - times[i]
        fraction = (t_ns - times[i]) / width_ns
        line = lerp(rows[i], rows[i + 1], fraction)
        if self._slopes is None:
            return line
        curve = hermite(rows[i], rows[i + 1], self._slopes[i], self._slopes[i + 1], width_ns * 1e-9, fraction)
        return curve if self._straight is None else np.where(self._straight, line, curve)


class ActionBuffer:
    """Holds one plan and splices chunks into it.

    `handover`: "switch" runs straight from the old plan's target to the new chunk's first action; "blend"
    crosses over smoothly during `blend_steps`; "ensemble" averages all chunks that speak about a time, the
    oldest weighing most (ACT), and needs a chunk every step; "rtc" switches too, to a chunk that was sampled to go
    on from this plan.
    """

    def __init__(
        self,
        robot: Embodiment,
        *,
        lead_ns: int,  # actions earlier than this after the hand-over come too late
        interpolation: Interpolation = "linear",
        handover: Handover = "switch",
        min_remaining: int = 4,
        blend_steps: float = 2.0,
        jump: JumpLimit | None = None,
    ) -> None:
        self._robot = robot
        self._bounds = Bounds.of(robot)
        self._deceleration = self._bounds.acceleration / self._bounds.unit
        self._lead_ns = lead_ns
        self._interpolation = interpolation
        self._handover = handover
        self._min_remaining = min_remaining
        self._blend_steps = blend_steps
        self._jump = jump
        self.clear()

    def clear(self) -> None:
        """Forget the plan and what came before it."""
        self._plan: Plan | None = None
        self._chunk: ActionChunk | None = None
        self._answered_ns = 0  # where that chunk would have begun, had the robot not stood: chunks come in this order
        self._times_ns: list[int] = []  # of the actions of the chunk that is being executed
        self._recent: deque[tuple[int, int, np.ndarray]] = deque(maxlen=ENSEMBLE_CHUNKS)

    @property
    def horizon(self) -> int | None:
        """Actions in the chunk that is being executed."""
        return None if self._chunk is None else self._chunk.horizon

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk that is being executed, with the time at which it really began."""
        return self._chunk

    def action_at(self, t_ns: int) -> Target | None:
        """The target for a time; `None` when there is no plan or its end has come to a stand."""
        plan = self._plan
        if plan is None or (t_ns > plan.end_ns and t_ns >= plan.rest_ns):
            return None
        return Target(plan.at(t_ns), t_ns > plan.end_ns)

    def remaining(self, now_ns: int) -> int:
        """Actions of the present chunk that are still to come."""
        return len(self._times_ns) - bisect_right(self._times_ns, now_ns)

    def planned(self, times_ns: Sequence[int]) -> list[np.ndarray]:
        """Targets at ascending times, as many of them as the plan has actions for."""
        if self._plan is None:
            return []
        return [self._plan.at(t) for t in times_ns if t <= self._plan.end_ns]

    def splice(
        self,
        chunk: ActionChunk,
        now_ns: int,
        anchor_ns: int,
        set_point: np.ndarray,
        *,
        from_rest: bool = False,
        held_back: bool = False,
    ) -> Splice:
        """Let a chunk take over from `anchor_ns` on, the time of the last target that was given out.

        `set_point` is where the robot has been told to be, native; it is used while no plan runs, and where limits have
        `held_back` the robot, whatever the plan said meanwhile. `from_rest`: the robot stood all the while since what
        the chunk answers, so nothing of it has passed: it begins now, whole.
        """
        step_ns, first_ns = chunk.step_ns, chunk.start_ns
        missing = ~chunk.mask[self._robot.slots]
        if missing.any():
            names = [self._robot.native_names[i] for i in np.flatnonzero(missing)]
            return Splice("wrong_robot", detail=f"the chunk has no values for {names}")
        if self._chunk is not None and first_ns <= self._answered_ns:
            return Splice("out_of_order", detail="a later chunk is being executed")
        if first_ns > now_ns + (self._robot.action_offset_steps + 1) * step_ns:
            return Splice("future", detail=f"it begins {(first_ns - now_ns) * 1e-9:.3f} s from now")
        rows = self._robot.from_unified(chunk.actions)  # (horizon, num_native)
        if not np.isfinite(rows).all():
            return Splice("not_finite")

        earliest_ns = anchor_ns + self._lead_ns
        dropped = min(max(0, -((first_ns - earliest_ns) // step_ns)), len(rows))
        kept = len(rows) - dropped
        if kept < self._min_remaining:
            return Splice("overrun", kept, dropped)
        answered_ns = first_ns
        if from_rest and dropped:
            chunk = replace(chunk, start_ns=earliest_ns)
            first_ns, kept, dropped = earliest_ns, len(rows), 0
        before = None if held_back else self._plan
        start = set_point if before is None else before.at(anchor_ns)
        if self._jump is not None:
            unit = self._bounds.unit
            leap = self._jump.check(start * unit, rows[dropped:] * unit, step_ns * 1e-9)
            if leap is not None:
                where = self._bounds.describe(leap.entries)
                return Splice("jump", kept, dropped, f"{leap.amount:.3g} at {where}")

        if self._handover == "ensemble":
            self._recent.append((first_ns, step_ns, rows))
            rows = ensemble(list(self._recent), [first_ns + i * step_ns for i in range(len(rows))])
        self._plan = self._take_over(rows[dropped:], first_ns + dropped * step_ns, step_ns, anchor_ns, start, before)
        self._chunk, self._answered_ns = chunk, answered_ns
        self._times_ns = [first_ns + i * step_ns for i in range(dropped, chunk.horizon)]
        return Splice("accepted", kept, dropped)

    def stop(self, anchor_ns: int) -> None:
        """End the plan at the last target that was given out and brake from there."""
        if self._plan is not None:
            position, velocity = self._plan.at(anchor_ns), self._plan.velocity(anchor_ns)
            self._plan = Plan([anchor_ns], position[None], self._deceleration, end_velocity=velocity)
            self._times_ns = []

    def _take_over(
        self, rows: np.ndarray, first_ns: int, step_ns: int, anchor_ns: int, start: np.ndarray, before: Plan | None
    ) -> Plan:
        times = [first_ns + i * step_ns for i in range(len(rows))]
        blended = before if self._handover == "blend" else None
        if blended is not None:
            blended.forget_before(anchor_ns)
        else:
            times, rows = [anchor_ns, *times], np.concatenate((start[None], rows))
        slopes = None
        if self._interpolation == "cubic":
            begun = None if blended is not None else before
            start_slope = None if begun is None else begun.velocity(anchor_ns)
            slopes = monotone_slopes((np.array(times) - times[0]) * 1e-9, rows, start_slope)
        return Plan(
            times,
            rows,
            self._deceleration,
            slopes=slopes,
            straight=self._bounds.grippers,
            before=blended,
            blend_ns=round(self._blend_steps * step_ns),
            blend_from_ns=anchor_ns,
        )


def ensemble(chunks: list[tuple[int, int, np.ndarray]], times_ns: list[int]) -> np.ndarray:
    """Weighted mean at each time over all chunks (start_ns, step_ns, rows) that speak about it.

    w_j = exp(-m j) with j = 0 for the oldest of them (ACT, Zhao et al. 2023, algorithm 2).
    """
    total = np.zeros((len(times_ns), chunks[0][2].shape[1]))
    weights = np.zeros((len(times_ns), 1))
    speakers = np.zeros(len(times_ns))
    for start_ns, step_ns, rows in chunks:
        position = (np.array(times_ns) - start_ns) / step_ns  # in steps of that chunk
        covered = (position >= 0) & (position <= len(rows) - 1)
        values = rows_at(rows, position)
        weight = np.where(covered, np.exp(-ENSEMBLE_DECAY * speakers), 0.0)[:, None]
        total += weight * values
        weights += weight
        speakers += covered
    return total / weights
