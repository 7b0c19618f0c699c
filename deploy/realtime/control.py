"""The control process: nothing but the tick, at its deadlines, beside no network and no picture.

Per tick: orders first, the emergency stop before all; the measured state; an answer, if one came; what the loop
decides, through the limits, to the arms; then what happened, for whoever records or shows it. Whatever goes wrong ends
in holding: an order to stop, a silent supervisor or inference, a driver that raises, the end of the parent.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import load_attribute
from data_pipeline.schema.types import ACTORS
from deploy.loop import ControlLoop, LoopSettings, Mode
from deploy.realtime import records
from deploy.realtime.clock import Deadlines, ask_for_priority, now_ns
from deploy.realtime.follow import FollowLoop, Leader
from deploy.realtime.memory import Ring, RingSpec
from deploy.realtime.process import parent_id
from deploy.realtime.records import text
from robot_drivers.arm import Arm
from robot_drivers.bimanual import Bimanual
from robot_drivers.errors import RobotError
from robot_drivers.limits.chain import LimitSettings

SILENT_S = 1.0
"""A heartbeat that is older than this is no heartbeat (spec section 6)."""

MAX_OVERRUNS = 10
"""Ticks that may be missed within a second; more, and the robot stops."""

LOOK_BACK_NS = 300_000_000
"""The observation that answers a request may be so much older: what was sent since then goes with the request."""

STOPPING_S = 5.0
"""Time to come to a stand when the process has to end."""


@dataclass(frozen=True)
class ControlSpec:
    """What a control process is started with."""

    robot: dict[str, Any]  # of `Embodiment.to_dict`
    settings: LoopSettings
    limits: LimitSettings
    open_arm: str  # "module:function" of (robot, side) -> Arm
    rings: dict[str, RingSpec]
    leader: dict[str, Any] | None = None  # of `Embodiment.to_dict`: arms that a person leads with
    open_leader: str = ""  # as open_arm


class ControlProcess:
    """Runs the loop of one robot between rings; `run` is the body of the process."""

    def __init__(self, spec: ControlSpec, body: Bimanual, loop: ControlLoop) -> None:
        settings = spec.settings
        self.loop = loop
        self._follow = loop if isinstance(loop, FollowLoop) else None  # where a person may lead
        self.body = body
        self._tick_hz = settings.tick_hz
        rings = {name: Ring(ring) for name, ring in spec.rings.items()}
        self._orders, self._answers, self._health = rings["orders"], rings["answers"], rings["health"]
        self._states, self._ticks, self._requests = rings["states"], rings["ticks"], rings["requests"]
        self._state, self._tick, self._request = (r.empty() for r in (self._states, self._ticks, self._requests))
        self._parent = parent_id()
        self._request_number = -1
        self._starts = self._resets = self._estops = 0
        self._overruns: deque[int] = deque(maxlen=round(self._tick_hz))  # missed ticks, of the last second
        self._closing_ns: int | None = None

    def run(self) -> None:
        """Tick until told to end, then come to a stand and return. No exception leaves the arms moving."""
        try:
            deadlines = Deadlines(self._tick_hz)
            while not self._may_end():
                lateness_ns = deadlines.wait()
                self.tick(now_ns(), lateness_ns, deadlines.missed)
        finally:
            try:
                self._come_to_rest()
            finally:
                self.body.close()

    def close_soon(self, *_: object) -> None:
        """Stop, hold, then end: the answer to SIGTERM and SIGINT."""
        if self._closing_ns is None:
            self._closing_ns = now_ns()

    def tick(self, now: int, lateness_ns: int = 0, missed: int = 0) -> None:
        """One tick at a time `now`."""
        self._obey(now, missed)
        measured = self._measure(now)
        self._take_answer(now)
        tick = self.loop.tick(now)
        commanded = tick.positions is not None
        changes: tuple = ()
        try:
            if tick.positions is None:
                self.body.hold()
            else:
                changes = self.body.command(tick.positions, tick.stamp_ns)
                if changes and self.body.set_point is not None:
                    self.loop.push_sent(self.body.set_point, tick.stamp_ns)
        except RobotError as error:
            commanded = False
            self.loop.fault(str(error))
        if tick.wants_observation:
            self._request["stamp_ns"] = now
            records.put_prefix(self._request, self.loop.prefix(now - LOOK_BACK_NS))
            self._request_number = self._requests.write(self._request)
            self.loop.asked(now)
        record = self._tick
        record["stamp_ns"], record["target_ns"], record["lateness_ns"] = now, tick.stamp_ns, lateness_ns
        record["missed"], record["commanded"], record["limited"] = missed, commanded, bool(changes)
        record["actor"] = ACTORS.index(self._actor(commanded))
        record["mode"] = self.loop.mode.value.encode()
        record["why"] = "; ".join(filter(None, (tick.why or self.loop.why, self._told(changes)))).encode()
        record["wanted"] = np.nan if tick.positions is None else tick.positions
        record["measured"] = np.nan if measured is None else measured
        sent = self.body.set_point
        record["sent"] = np.nan if sent is None else sent
        self._ticks.write(record)

    def _actor(self, commanded: bool) -> str:
        """Who gave the command of this tick: nobody while the arms hold, brake or are on their way to the leader."""
        if not commanded or self.loop.mode is not Mode.RUN:
            return "nobody"
        if self._follow is None or not self._follow.leads:
            return "policy"
        return "operator" if self._follow.has_met else "nobody"

    def _told(self, changes: tuple) -> str:
        """Which limits changed the command."""
        names = self.body.names
        return "; ".join(
            f"{change.limit} {change.verdict}: {change.words or ', '.join(names[i] for i in change.entries)}"
            for change in changes
        )

    def _obey(self, now: int, missed: int) -> None:
        """Orders, watchdogs, and what the parent's end means."""
        newest = self._orders.newest()
        if newest is None:
            return
        orders, loop = newest.value, self.loop
        if orders["estop"] or orders["estops"] > self._estops:
            self._estops = int(orders["estops"])
            if loop.mode is not Mode.FAULT:
                loop.fault("emergency stop")
        loop.instruction = text(orders["instruction"])
        if self._follow is not None and self._follow.leads != bool(orders["leads"]):
            self._follow.lead(bool(orders["leads"]))
            self._request_number = -1  # what was asked before has its answer too late
        if orders["resets"] > self._resets and (orders["estop"] or not self.body.is_moving):
            self._resets = int(orders["resets"])
            if not orders["estop"]:
                self.body.reset()
                loop.reset()
        if orders["closing"] or os.getppid() != self._parent:
            self.close_soon()
        silent = (now - int(orders["stamp_ns"])) * 1e-9 > SILENT_S
        if self._closing_ns is not None or silent or orders["wanted"] == records.HOLD:
            loop.stop("the supervisor is silent" if silent else "stop was asked for")
            self._starts = max(self._starts, int(orders["starts"]))
        elif orders["resets"] > self._resets:
            loop.stop("a reset was asked for")  # the arms brake first; a start that came after it waits
        elif orders["starts"] > self._starts:
            self._starts = int(orders["starts"])
            if loop.mode not in (Mode.FAULT, Mode.RUN):
                self._request_number = -1  # what was asked before, perhaps of another policy, is no part of this run
                loop.start()
        health = self._health.newest()
        if loop.mode is Mode.RUN and (health is None or (now - int(health.value["stamp_ns"])) * 1e-9 > SILENT_S):
            loop.stop("the inference process is silent")
        self._overruns.append(missed)
        if loop.mode is Mode.RUN and missed - self._overruns[0] > MAX_OVERRUNS:
            loop.stop(f"{missed - self._overruns[0]} ticks were missed within a second")

    def _measure(self, now: int) -> np.ndarray | None:
        """The state, to the loop and to the others. A driver that raises is a fault."""
        try:
            native, stamp_ns = self.body.state()
        except RobotError as error:
            if self.loop.mode is not Mode.FAULT:
                self.loop.fault(str(error))
            return None
        if self.loop.push_state(native, stamp_ns, now):
            self._state["stamp_ns"], self._state["positions"] = stamp_ns, native
            self._states.write(self._state)
        return native

    def _take_answer(self, now: int) -> None:
        for record in self._answers.new():
            answer = record.value
            if answer["request"] != self._request_number:
                continue  # of a request that was given up
            if answer["outcome"] == records.STALE:
                self.loop.unanswered()
                continue
            chunk = records.get_chunk(answer) if answer["outcome"] == records.CHUNK else None
            self.loop.deliver(chunk, now)

    def _come_to_rest(self) -> None:
        """Brake with the arms' own limits: the loop may have been left in the middle of a motion."""
        deadlines, until_ns = Deadlines(self._tick_hz), now_ns() + round(STOPPING_S * 1e9)
        self.body.hold()
        while self.body.is_moving and now_ns() < until_ns:
            deadlines.wait()
            self.body.hold()

    def _may_end(self) -> bool:
        """Told to end, and at rest or out of patience."""
        if self._closing_ns is None:
            return False
        at_rest = self.loop.mode in (Mode.HOLD, Mode.FAULT) and not self.body.is_moving
        return at_rest or (now_ns() - self._closing_ns) * 1e-9 > STOPPING_S


def main(spec: ControlSpec) -> None:
    """The body of the process."""
    robot = Embodiment.from_dict(spec.robot)
    open_arm: Callable[[Embodiment, str], Arm] = load_attribute("arm opener", "arm", {"arm": spec.open_arm})
    arms = {side: open_arm(robot, side) for side in robot.arms}
    leader = None if spec.leader is None else _open_leader(spec, robot)
    settings = spec.settings
    loop = ControlLoop(robot, settings=settings) if leader is None else FollowLoop(robot, leader, settings)
    process = ControlProcess(spec, Bimanual(robot, arms, spec.limits, settings.tick_hz), loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, process.close_soon)
    for refused in ask_for_priority():
        print(f"rdt control: goes on without {refused}", file=sys.stderr)
    try:
        process.run()
    finally:
        if leader is not None:
            leader.close()


def _open_leader(spec: ControlSpec, robot: Embodiment) -> Leader:
    open_one: Callable[[Embodiment, str], Arm] = load_attribute("leader opener", "arm", {"arm": spec.open_leader})
    return Leader(Embodiment.from_dict(spec.leader or {}), robot, open_one)
