"""The tick: what the robot should do now, and whether the policy should be asked again.

    state, frames -> push_*        at any rate
    wants_observation(now)         the plan is running short
    observation(now)               one Observation for the inference, or why there is none; or, where another process
                                   makes it, asked(now), and unanswered() when there was none
    prefix(stamp)                  what the answer to it must go on from (hand-over "rtc")
    deliver(chunk, now)            when an answer comes, however late
    tick(now)                      a native command for the guarded robot, or hold

Nothing here waits: inference runs elsewhere, and a tick without a plan holds. The clock is the caller's, so
a simulator drives the same loop in lockstep.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, get_args

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import unknown_name
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.action_buffer import ActionBuffer, Handover, Interpolation, Splice
from deploy.interpolate import rows_at
from deploy.observation_buffer import ObservationBuffer, Stale
from deploy.prefix import Prefix
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.jump import JumpLimit
from robot_drivers.types import CameraFrame

ELSEWHERE = -1
HELD_BACK = 0.05
"""Rad, or m for a tool's point. Limits that keep the robot farther behind its plan than this hold it back: the next
chunk goes on from the robot."""


class Mode(Enum):
    """What the loop is allowed to do; it begins in HOLD."""

    HOLD = "hold"
    RUN = "run"
    STOPPING = "stopping"  # braking to a stand, then HOLD
    FAULT = "fault"  # hold until reset


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How the loop runs; rates and limits of the robot stand in its YAML."""

    tick_hz: float = 50.0
    execute_steps: int = 8  # actions of a chunk that are executed before the next one is asked for; more if it is late
    interpolation: Interpolation = "linear"
    handover: Handover = "switch"
    blend_steps: float = 2.0  # duration of a blended hand-over
    min_remaining: int = 4  # a chunk with fewer actions still to come is discarded
    jump_rad: float = 0.35  # a chunk that begins farther away is rejected; inf: never
    gripper_jump: float = 0.5  # the same for grippers, as a part of their range
    jump_m: float = 0.15  # the same for the points of tools, under control eef
    max_rejected: int = 3  # chunks rejected or failed in a row before the robot stops
    answer_timeout_s: float = 1.0  # a request without an answer for this long is lost
    hold_after_s: float = 0.1  # age of the joint state at which the robot holds
    fault_after_s: float = 0.5  # ... at which it stays so until reset
    history: int = 1  # frames per camera
    cameras: tuple[str, ...] | None = None  # roles that the policy looks at; None: all of the robot's

    def __post_init__(self) -> None:
        for name, known in (("interpolation", Interpolation), ("handover", Handover)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(unknown_name(name, getattr(self, name), get_args(known)))
        if not (self.tick_hz > 0 and self.execute_steps > 0):
            raise ValueError("LoopSettings: tick_hz and execute_steps must be positive")


@dataclass
class Counters:
    """What has happened since the loop was made."""

    ticks: int = 0
    holds: int = 0  # ticks without a command while in RUN
    exhausted: int = 0  # plans that ended before the next one came
    chunks: int = 0  # accepted
    late: int = 0  # chunks that came after the plan before had ended
    overruns: int = 0  # chunks that came too late to be of use
    rejected: int = 0  # chunks that were unsound
    failed: int = 0  # answers without a chunk
    lost: int = 0  # requests without an answer
    stale: int = 0  # observations that could not be made


class Tick(NamedTuple):
    """What to do in this tick."""

    positions: np.ndarray | None  # native action units, float64 (num_native,); None: hold
    stamp_ns: int  # time that the positions are meant for: one tick from now
    why: str  # "run", or the reason for holding or braking
    wants_observation: bool


class ControlLoop:
    """One robot's tick. Start it with `start()`; until then, and whenever in doubt, it holds."""

    _set_point: np.ndarray | None  # the last positions that were given out
    _target_ns: int  # and the time that they, or a hold in their place, were meant for
    _sent: deque[tuple[int, np.ndarray]]  # what the robot has been told in the last second, with its times
    _held_back: bool  # limits keep the robot behind the plan
    _pending_ns: int | None  # stamp of the observation that is being answered; ELSEWHERE: another process knows it
    _asked_ns: int  # when it was asked for
    _asked_at_rest: bool  # and whether the robot stood, with nothing planned
    _num_rejected: int  # in a row
    _was_running: bool  # there has been a plan
    _ended: bool  # and it is over

    def __init__(self, robot: Embodiment, instruction: str = "", settings: LoopSettings | None = None) -> None:
        settings = settings or LoopSettings()
        self.instruction = instruction
        self.mode = Mode.HOLD
        self.why = "not started"  # the reason for the present mode, where it is not RUN
        self.counters = Counters()
        self._robot = robot
        self._settings = settings
        self._bounds = Bounds.of(robot)
        self._following = ~(self._bounds.grippers | self._bounds.seen)  # entries that keep up with their command
        self._tick_ns = round(1e9 / settings.tick_hz)
        self._hold_after_s, self._fault_after_s = settings.hold_after_s, settings.fault_after_s
        self._observations = ObservationBuffer(
            robot, cameras=settings.cameras, history=settings.history, hard_state_s=settings.hold_after_s
        )
        self._actions = ActionBuffer(
            robot,
            lead_ns=self._tick_ns,
            interpolation=settings.interpolation,
            handover=settings.handover,
            min_remaining=settings.min_remaining,
            blend_steps=settings.blend_steps,
            jump=JumpLimit(self._bounds, settings.jump_rad, settings.gripper_jump, settings.jump_m),
        )
        self._latencies_ns: deque[int] = deque(maxlen=10)
        self._told_too_slow = False
        self._sent = deque(maxlen=math.ceil(settings.tick_hz))
        self._forget()

    # modes

    def start(self) -> None:
        """HOLD or STOPPING -> RUN: ask for a plan and follow it, from where the robot is measured to be."""
        if self.mode is Mode.FAULT:
            raise ValueError(f"the loop is in a fault ({self.why}): call reset() first")
        if self.mode is not Mode.RUN:
            self._forget()
            self.mode, self.why = Mode.RUN, ""

    def stop(self, why: str = "stop was asked for") -> None:
        """RUN -> STOPPING -> HOLD: leave the plan, brake, hold."""
        if self.mode is Mode.RUN:
            self._actions.stop(self._target_ns)
            self._pending_ns = None
            self.mode, self.why = Mode.STOPPING, why

    def fault(self, why: str) -> None:
        """Hold from now on: something is wrong with the robot."""
        self._forget()
        self.mode, self.why = Mode.FAULT, why

    def reset(self) -> None:
        """Any mode -> HOLD, as new: no plan, no states, no frames; stamps may begin again. Counters stay."""
        self._forget()
        self._observations.clear()
        self.mode, self.why = Mode.HOLD, "reset"

    # what comes in

    def push_state(self, native: np.ndarray, stamp_ns: int, now_ns: int) -> bool:
        """A measured native vector; False if it was refused."""
        return self._observations.push_state(native, stamp_ns, now_ns)

    def push_frame(self, frame: CameraFrame, now_ns: int) -> bool:
        """A camera frame; False if it was refused."""
        return self._observations.push_frame(frame, now_ns)

    def push_sent(self, native: np.ndarray, stamp_ns: int) -> None:
        """What the limits made of the command for `stamp_ns`, where they changed it."""
        if self._sent and self._sent[-1][0] == stamp_ns:
            behind = np.abs((native - self._sent[-1][1]) * self._bounds.unit)[self._following]
            self._held_back = bool(behind.max(initial=0.0) > HELD_BACK)
            self._sent[-1] = (stamp_ns, native)

    def deliver(self, chunk: ActionChunk | None, now_ns: int) -> Splice:
        """The answer to an observation; `None` says that inference failed. Unusable chunks change nothing."""
        pending_ns = self._pending_ns
        if pending_ns is not None and (chunk is None or chunk.start_ns >= pending_ns):  # else: a lost one
            if chunk is not None and pending_ns == ELSEWHERE:
                pending_ns = chunk.start_ns - self._robot.action_offset_steps * chunk.step_ns
            if pending_ns != ELSEWHERE:
                self._latencies_ns.append(now_ns - pending_ns)
            self._pending_ns = None
        if self.mode is not Mode.RUN:
            return Splice("ignored", detail=f"the loop is in mode {self.mode.value}")
        if chunk is None:
            self.counters.failed += 1
            self._reject("inference failed")
            return Splice("failed")
        set_point = self._set_point if self._set_point is not None else self._measured_as_command()
        if self._held_back and self._sent:
            set_point = self._sent[-1][1]
        if set_point is None:
            return Splice("ignored", detail="no joint state has come yet")
        self._check_cadence(chunk)
        anchor_ns = max(now_ns, self._target_ns)
        from_rest = self._asked_at_rest and not self._was_running
        splice = self._actions.splice(
            chunk, now_ns, anchor_ns, set_point, from_rest=from_rest, held_back=self._held_back
        )
        if splice.outcome == "accepted":
            self.counters.chunks += 1
            self.counters.late += self._ended
            self._num_rejected = 0
            self._was_running = True
        elif splice.outcome == "overrun":
            self.counters.overruns += 1
        else:
            self.counters.rejected += 1
            self._reject(f"chunk rejected: {splice.outcome} {splice.detail}".rstrip())
        return splice

    # what goes out

    def wants_observation(self, now_ns: int) -> bool:
        """Whether a new chunk should be asked for now: the plan is short and no answer is on its way."""
        if self.mode is not Mode.RUN:
            return False
        if self._pending_ns is not None:
            if now_ns - self._asked_ns < self._settings.answer_timeout_s * 1e9:
                return False
            self._pending_ns = None
            self.counters.lost += 1
        horizon = self._actions.horizon
        if horizon is None:
            return True
        delay = self._delay_steps()
        execute = max(self._settings.execute_steps, delay)
        enough = max(horizon - execute, delay + 1 if delay else 0)
        return self._actions.remaining(now_ns) <= enough

    def observation(self, now_ns: int) -> Observation | Stale:
        """The request for inference; after it `wants_observation` is False until an answer or a time-out."""
        answer = self._observations.observation(now_ns, self.instruction)
        if isinstance(answer, Stale):
            self.counters.stale += 1
        else:
            self._pending_ns, self._asked_ns = answer.stamp_ns, now_ns
            self._asked_at_rest = not self._was_running
        return answer

    def asked(self, now_ns: int) -> None:
        """Another process was asked for a chunk: what `observation` notes where the pictures are here."""
        self._pending_ns, self._asked_ns = ELSEWHERE, now_ns

    def unanswered(self) -> None:
        """It had no observation: something was too old."""
        self.counters.stale += 1
        self._pending_ns = None

    def prefix(self, stamp_ns: int) -> Prefix | None:
        """What is decided of the chunk that answers an observation of `stamp_ns`, for hand-over "rtc".

        On the chunk's own time grid: what the robot was told for times up to the last tick, then what the plan
        proposes. `None` where there is no plan to go on from, and for the other hand-overs.
        """
        present = self._actions.chunk
        if self._settings.handover != "rtc" or self.mode is not Mode.RUN or present is None or not self._sent:
            return None
        step_ns = round(1e9 / self._robot.rate_hz)
        first_ns = stamp_ns + self._robot.action_offset_steps * step_ns
        plan_end_ns = present.start_ns + present.horizon * present.step_ns
        times = np.arange(first_ns, max(plan_end_ns, self._target_ns + 1), step_ns)
        times = times[times >= self._sent[0][0]]
        past, to_come = times[times <= self._target_ns], times[times > self._target_ns]
        stamps, told = zip(*self._sent, strict=True)
        rows = [*rows_at(np.array(told), np.interp(past, stamps, np.arange(len(stamps))))]
        rows += self._actions.planned(to_come.tolist())
        if not rows:
            return None
        vector, mask = self._robot.to_unified(np.array(rows), "action")
        earliest_ns = max(self._latencies_ns, default=0) + self._tick_ns  # of an action that can still be executed
        return Prefix(
            ActionChunk(int(times[0]), self._robot.rate_hz, vector, mask),
            delay_steps=max(math.ceil(earliest_ns / step_ns) - self._robot.action_offset_steps, 0),
            plan_start_ns=present.start_ns,
        )

    def tick(self, now_ns: int) -> Tick:
        """The command for one tick from now. Send it to the guarded robot, or tell the robot to hold."""
        self.counters.ticks += 1
        target_ns = now_ns + self._tick_ns
        positions, why = self._decide(now_ns, target_ns)
        if positions is None:
            self.counters.holds += self.mode is Mode.RUN
        else:
            self._set_point = positions
            self._sent.append((target_ns, positions))
            self._held_back = False
        self._target_ns = target_ns
        return Tick(positions, target_ns, why, self.wants_observation(now_ns))

    def _decide(self, now_ns: int, target_ns: int) -> tuple[np.ndarray | None, str]:
        if self.mode is Mode.HOLD or self.mode is Mode.FAULT:
            return None, self.why
        age_s = self._observations.state_age_s(now_ns)
        if age_s > self._hold_after_s:
            why = str(Stale("state", age_s))
            self._actions.clear()
            self._was_running = self._ended = False
            if self._fault_after_s < age_s < math.inf:
                self.fault(why)
            elif self.mode is Mode.STOPPING:
                self.mode = Mode.HOLD
            return None, why
        target = self._actions.action_at(target_ns)
        if self.mode is Mode.STOPPING:
            if target is None:
                self._forget()
                self.mode = Mode.HOLD
                return None, self.why
            return target.positions, self.why
        if target is not None and not target.braking:
            self._ended = False
            return target.positions, "run"
        if not self._was_running:
            return None, "no plan yet"
        self.counters.exhausted += not self._ended
        self._ended = True
        return None if target is None else target.positions, "plan exhausted"

    def _delay_steps(self) -> int:
        """Steps from an observation to its chunk: the largest of the last ten."""
        if not self._latencies_ns:
            return 0
        return math.ceil(max(self._latencies_ns) * 1e-9 * self._robot.rate_hz)

    def _check_cadence(self, chunk: ActionChunk) -> None:
        """Chunks follow each other without a gap if delay <= execute <= horizon - delay, all in steps (RTC)."""
        delay = self._delay_steps()
        if 2 * delay > chunk.horizon and not self._told_too_slow:
            self._told_too_slow = True
            warnings.warn(
                f"a chunk comes {delay} steps after what it answers, more than half of its {chunk.horizon}: plans will "
                "end before the next one is there, and the robot brakes each time. Use a longer horizon, fewer "
                "sampling steps or a faster network",
                RuntimeWarning,
                stacklevel=3,
            )

    def _measured_as_command(self) -> np.ndarray | None:
        measured = self._observations.newest_state()
        return None if measured is None else self._bounds.as_command(measured)

    def _reject(self, why: str) -> None:
        self._num_rejected += 1
        if self._num_rejected >= self._settings.max_rejected:
            self.stop(why)

    def _forget(self) -> None:
        """No plan, no set-point, no request on its way."""
        self._actions.clear()
        self._set_point = None
        self._target_ns = 0
        self._sent.clear()
        self._pending_ns = None
        self._asked_ns = 0
        self._asked_at_rest = False
        self._held_back = False
        self._num_rejected = 0
        self._was_running = False
        self._ended = False
