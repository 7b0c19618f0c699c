"""The inference process: observations from what the rings hold, chunks back; one request at a time.

It may be slow, raise or die: the control process has the plan, the limits and the last word. It may hold two policies,
to compare them: the orders say which one answers, and each has an observation buffer of its own, since it may look at
other cameras.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import load_attribute
from data_pipeline.schema.types import ActionChunk
from deploy.observation_buffer import ObservationBuffer, Stale
from deploy.realtime import records
from deploy.realtime.clock import now_ns
from deploy.realtime.memory import Record, Ring, RingSpec
from deploy.realtime.process import parent_id
from deploy.realtime.records import text

IDLE_S = 0.001
HEARTBEAT_S = 0.1


class Backend(Protocol):
    """Who answers: an engine in this process, or a server elsewhere."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Roles that it looks at."""
        ...

    @property
    def image_history(self) -> int:
        """Frames of each."""
        ...

    @property
    def predict(self) -> Callable[..., ActionChunk]:
        """(observation) or, where prefixes come, (observation, prefix) -> the chunk, on the observation's clock."""
        ...


class BackendSpec(NamedTuple):
    """How a backend is opened."""

    opener: str  # "module:function" of (robot, options) -> Backend
    options: dict[str, Any]  # for it


@dataclass(frozen=True)
class InferenceSpec:
    """What an inference process is started with."""

    robot: dict[str, Any]  # of `Embodiment.to_dict`
    backends: tuple[BackendSpec, ...]  # `policy` of the orders is the number of the one that answers
    rings: dict[str, RingSpec]
    cameras: dict[str, RingSpec]  # camera role -> its frames


class InferenceProcess:
    """Answers requests between rings; `run` is the body of the process."""

    def __init__(self, spec: InferenceSpec, backends: Sequence[Backend]) -> None:
        self._backends = tuple(backends)
        rings = {name: Ring(ring) for name, ring in spec.rings.items()}
        self._orders, self._requests, self._states = rings["orders"], rings["requests"], rings["states"]
        self._answers, self._health = rings["answers"], rings["health"]
        seen = {role for backend in self._backends for role in backend.cameras}
        self._frames = {role: Ring(ring) for role, ring in spec.cameras.items() if role in seen}
        robot = Embodiment.from_dict(spec.robot)
        self._buffers = [
            ObservationBuffer(robot, cameras=backend.cameras, history=backend.image_history)
            for backend in self._backends
        ]
        self._answer, self._beat = self._answers.empty(), self._health.empty()
        self._parent = parent_id()
        self._resets, self._since_ns = 0, 0  # the newest reset, and when it was seen
        self._closing = threading.Event()

    def run(self) -> None:
        """Answer until the order to end, or the end of the parent."""
        self._beat["ready"] = 1
        threading.Thread(target=self._keep_beating, daemon=True).start()
        while not self._closing.is_set():
            orders = self._orders.newest()
            if (orders is not None and orders.value["closing"]) or os.getppid() != self._parent:
                return
            self._take_in(0 if orders is None else int(orders.value["resets"]))
            requests = list(self._requests.new())
            if requests:
                orders = self._orders.newest()  # those that the request came after
                number, instruction = (
                    (0, "") if orders is None else (int(orders.value["policy"]), text(orders.value["instruction"]))
                )
                self._answer_request(requests[-1], number, instruction)
            else:
                time.sleep(IDLE_S)

    def close_soon(self, *_: object) -> None:
        self._closing.set()

    def _take_in(self, resets: int) -> None:
        """States and frames into the buffers, which refuse what is not newer; after a reset nothing from before it."""
        now = now_ns()
        if resets > self._resets:
            self._resets, self._since_ns = resets, now
            for buffer in self._buffers:
                buffer.clear()
        for record in self._states.new():
            if record.value["stamp_ns"] >= self._since_ns:
                for buffer in self._buffers:
                    buffer.push_state(record.value["positions"], int(record.value["stamp_ns"]), now)
        for role, ring in self._frames.items():
            looking = [
                buffer for backend, buffer in zip(self._backends, self._buffers, strict=True) if role in backend.cameras
            ]
            for record in ring.new():
                if record.value["stamp_ns"] >= self._since_ns:
                    frame = records.get_frame(record.value, role)
                    for buffer in looking:
                        buffer.push_frame(frame, now)

    def _answer_request(self, request: Record, number: int, instruction: str) -> None:
        """The answer of backend `number`."""
        started = now_ns()
        answer, beat, backend = self._answer, self._beat, self._backends[number]
        seen = self._buffers[number].observation(started, instruction)
        answer["request"] = request.number
        if isinstance(seen, Stale):
            answer["outcome"], answer["why"] = records.STALE, str(seen).encode()
            beat["why"] = answer["why"]
        else:
            try:
                prefix = records.get_prefix(request.value)
                chunk = backend.predict(seen, prefix) if prefix else backend.predict(seen)
                records.put_answer(answer, request.number, chunk)
                beat["why"] = b""
            except Exception as error:  # of a network, a server, a chunk that is not finite: the plan goes on
                answer["outcome"] = records.FAILED
                answer["why"] = beat["why"] = f"{type(error).__name__}: {error}".encode()
                beat["failures"] += 1
            beat["latency_ns"] = now_ns() - started
            beat["requests"] += 1
        answer["stamp_ns"] = now_ns()
        self._answers.write(answer)

    def _keep_beating(self) -> None:
        """From a thread: a long pass of the network is no silence, a hung interpreter is."""
        while not self._closing.wait(HEARTBEAT_S):
            self._beat["stamp_ns"] = now_ns()
            self._health.write(self._beat)


def main(spec: InferenceSpec) -> None:
    """The body of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor ends it
    robot = Embodiment.from_dict(spec.robot)
    backends = [
        load_attribute("inference backend", "backend", {"backend": backend.opener})(robot, backend.options)
        for backend in spec.backends
    ]
    process = InferenceProcess(spec, backends)
    signal.signal(signal.SIGTERM, process.close_soon)
    process.run()
