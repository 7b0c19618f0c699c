"""A robot that runs: the control and the inference process, their shared memory, and the orders they get.

    supervisor   cameras in, orders out, watches; this process
    control      the tick, the limits, the arms
    inference    the network, or a connection to a server

`close` brings the arms to a stand, ends both processes and removes the memory. Should this process be killed, the
others see it within a tick or two, hold, and end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Camera, Embodiment
from data_pipeline.schema.types import ACTORS
from deploy.loop import LoopSettings
from deploy.realtime import control, inference, records
from deploy.realtime.clock import now_ns
from deploy.realtime.memory import Ring, RingSpec
from deploy.realtime.process import undisturbed
from deploy.realtime.records import text
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.types import CameraFrame

HEARTBEAT_S = 0.1
MAX_HORIZON = 128  # actions of a chunk
STATES, TICKS, FRAMES = 256, 1024, 4  # lengths of the rings
PICTURE = (480, 640)  # height and width where a camera's connection does not say them: 3.7 MB of shared memory
TOPIC_PICTURE = (1080, 1920)
"""... of a topic, whose size nobody knows before: 25 MB a camera, and 3 ms to write a picture of whatever size."""

ENDING_S = {"control": 2 * control.STOPPING_S + 2.0, "inference": control.STOPPING_S + 2.0}
"""Time to end in; then a process is killed. Control may come to a stand twice: with its loop, then without."""


@dataclass(frozen=True)
class RunSpec:
    """What to run."""

    robot: Embodiment
    open_backend: str  # "module:function" of (robot, options) -> Backend
    backend_options: dict[str, Any] = field(default_factory=dict)
    against: inference.BackendSpec | None = None  # a second policy, to compare with; `choose` says which one acts
    open_arm: str = "robot_drivers.drivers:open_arm"  # of (robot, side) -> Arm
    leader: Embodiment | None = None  # arms that a person leads with
    takes_over: bool = False  # from a policy, when `lead` says so; else the person leads from each start on
    open_leader: str = "deploy.realtime.follow:open_leader"  # as open_arm
    settings: LoopSettings = field(default_factory=LoopSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    frame_size: tuple[int, int] | None = None  # height and width of the largest picture; None: `largest_picture`


def largest_picture(camera: Camera) -> tuple[int, int]:
    """Height and width that a camera's frames may have: its connection's, else `PICTURE` or `TOPIC_PICTURE`."""
    height, width = TOPIC_PICTURE if camera.source.startswith("/") or camera.source == "ros_topics" else PICTURE
    return int(camera.connection.get("height", height)), int(camera.connection.get("width", width))


class Supervisor:
    """Starts the processes and speaks to them. Use it as a context manager."""

    def __init__(self, spec: RunSpec, instruction: str = "") -> None:
        """Make the memory and start both processes; the arms hold until `start`."""
        self.spec = spec
        robot = spec.robot
        context = multiprocessing.get_context("spawn")
        self._closed = False
        self._lock = threading.Lock()
        self._rings: dict[str, Ring] = {}
        self._processes: dict[str, BaseProcess] = {}
        self._beating = threading.Event()
        try:
            sizes = {
                "orders": (records.ORDERS, 2),
                "requests": (records.request_dtype(MAX_HORIZON), 4),
                "answers": (records.answer_dtype(MAX_HORIZON), 4),
                "health": (records.HEALTH, 2),
                "states": (records.state_dtype(robot.num_native), STATES),
                "ticks": (records.tick_dtype(robot.num_native), TICKS),
            }
            for name, (dtype, length) in sizes.items():
                self._rings[name] = Ring.create(dtype, length)
            self._frames = {
                role: Ring.create(records.frame_dtype(*(spec.frame_size or largest_picture(camera))), FRAMES)
                for role, camera in robot.cameras.items()
            }
            self._rings |= {f"frames of {role}": ring for role, ring in self._frames.items()}
            self._orders = self._rings["orders"].empty()
            self._frame_records = {role: ring.empty() for role, ring in self._frames.items()}
            self._order(instruction=instruction.encode(), wanted=records.HOLD)
            specs = {name: self._rings[name].spec for name in sizes}
            plain = robot.to_dict()
            leader = spec.leader.to_dict() if spec.leader else None
            told = control.ControlSpec(
                plain, spec.settings, spec.limits, spec.open_arm, specs, leader, spec.open_leader
            )
            asked = inference.InferenceSpec(
                plain,
                (inference.BackendSpec(spec.open_backend, spec.backend_options), *filter(None, [spec.against])),
                specs,
                {role: ring.spec for role, ring in self._frames.items()},
            )
            self._processes = {
                "control": context.Process(target=_run, args=(control.main, told), name="rdt control"),
                "inference": context.Process(target=_run, args=(inference.main, asked), name="rdt inference"),
            }
            for process in self._processes.values():
                process.start()
            threading.Thread(target=self._keep_beating, daemon=True).start()
        except BaseException:
            self.close()
            raise

    # orders

    def start(self) -> None:
        """HOLD -> RUN."""
        leads = self.spec.leader is not None and not self.spec.takes_over
        self._order(wanted=records.RUN, starts=self._orders["starts"] + 1, leads=leads)

    def stop(self) -> None:
        """RUN -> STOPPING -> HOLD."""
        self._order(wanted=records.HOLD)

    def estop(self) -> None:
        """Stop now, at the arms' limits, and stay so until `reset`."""
        self._order(estop=1, estops=self._orders["estops"] + 1, wanted=records.HOLD)

    def reset(self) -> None:
        """Leave an emergency stop or a fault; the arms hold until `start`."""
        self._order(estop=0, resets=self._orders["resets"] + 1, wanted=records.HOLD)

    def instruct(self, instruction: str) -> None:
        """What the policy is told from its next request on."""
        self._order(instruction=instruction.encode())

    def lead(self, leads: bool) -> None:
        """A person takes over from the policy, or gives back; arms that hold for want of one of them go on.

        Raises `ValueError` where there is no leader to take over with, and before `start`.
        """
        if not self.spec.takes_over:
            raise ValueError("nobody can take over here: --leader names the arms to lead with")
        if self._orders["wanted"] != records.RUN:
            raise ValueError("the arms hold: a person takes over from a policy that was started")
        self._order(leads=leads, starts=self._orders["starts"] + 1)

    def choose(self, number: int) -> None:
        """Which policy acts from the next start on: 0, or 1 for the one that it is compared with.

        Raises `ValueError` where there is no such policy, and while one acts.
        """
        if number not in range(1 if self.spec.against is None else 2):
            raise ValueError(f"there is no policy number {number} here: --against names a second one")
        if self._orders["wanted"] == records.RUN:
            raise ValueError("a policy acts: stop it before another one is chosen")
        self._order(policy=number)

    def push_frame(self, frame: CameraFrame) -> None:
        """A picture for the policy, stamped on `clock.now_ns`."""
        record = records.put_frame(self._frame_records[frame.role], frame)
        self._frames[frame.role].write(record)

    # what happens

    def wait_until_ready(self, timeout_s: float = 600.0, closing: threading.Event | None = None) -> None:
        """Until the network is warm and the control process ticks.

        Raises `RuntimeError` when one of them ended, and when `closing` is set: nobody waits any more.
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            self.check()
            if closing is not None and closing.is_set():
                raise RuntimeError("told to end before the robot's processes were ready")
            health, tick = self._rings["health"].newest(), self._rings["ticks"].newest()
            if health is not None and health.value["ready"] and tick is not None:
                return
            time.sleep(0.02)
        raise RuntimeError(f"the robot's processes were not ready after {timeout_s:g} s")

    def check(self) -> None:
        """Raise `RuntimeError` when a process has ended that should not have."""
        for name, process in self._processes.items():
            if process.exitcode is not None and not self._closed:
                arms = "the arms hold" if name != "control" else "the arms keep their drivers' last target"
                raise RuntimeError(f"the {name} process has ended (exit code {process.exitcode}); {arms}")

    @property
    def alive(self) -> bool:
        """Whether both processes run."""
        return all(process.is_alive() for process in self._processes.values())

    def status(self) -> dict[str, Any]:
        """The newest tick and the health of the inference, as plain types."""
        tick, health = self._rings["ticks"].newest(), self._rings["health"].newest()
        status: dict[str, Any] = {"mode": "starting", "why": "", "ready": False}
        if tick is not None:
            value = tick.value
            status |= {
                "mode": text(value["mode"]),
                "why": text(value["why"]),
                "stamp_ns": int(value["stamp_ns"]),
                "missed": int(value["missed"]),
                "actor": ACTORS[int(value["actor"])],
                "measured": np.array(value["measured"]).tolist(),
            }
        if health is not None:
            value = health.value
            status |= {
                "ready": bool(value["ready"]),
                "latency_ms": float(value["latency_ns"]) * 1e-6,
                "requests": int(value["requests"]),
                "failures": int(value["failures"]),
                "inference": text(value["why"]),
                "inference_age_s": (now_ns() - int(value["stamp_ns"])) * 1e-9,
            }
        return status

    def ring_specs(self) -> dict[str, RingSpec]:
        """All rings by name, the frames of a camera as "frames of ROLE": for readers in other processes."""
        return {name: ring.spec for name, ring in self._rings.items()}

    def process_id(self, name: str) -> int | None:
        """Of `control` or `inference`, to look at it from outside."""
        return self._processes[name].pid

    def ring(self, name: str) -> Ring:
        """Another reader of a ring (states, ticks, requests, answers, orders)."""
        return Ring(self._rings[name].spec)

    def close(self) -> None:
        """Bring the arms to a stand, end the processes, remove the memory. May be called twice."""
        with undisturbed():
            if self._closed:
                return
            self._closed = True
            if "orders" in self._rings:
                self._order(closing=1, wanted=records.HOLD)
            for name, process in self._processes.items():
                if process.pid is None:
                    continue
                process.join(ENDING_S[name])
                if process.is_alive():
                    process.kill()
                    process.join()
            self._beating.set()
            with self._lock:
                for ring in self._rings.values():
                    ring.close()
                self._rings.clear()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _order(self, **changes: Any) -> None:
        with self._lock:
            if "orders" not in self._rings:
                return
            for name, value in changes.items():
                self._orders[name] = value
            self._orders["stamp_ns"] = now_ns()
            self._rings["orders"].write(self._orders)

    def _keep_beating(self) -> None:
        while not self._beating.wait(HEARTBEAT_S):
            self._order()


def _run(main: Callable[[Any], None], spec: Mapping[str, Any]) -> None:
    """The body of a child: an error is one line, and an exit code that is not 0."""
    try:
        with contextlib.suppress(KeyboardInterrupt):
            main(spec)
    except Exception as error:
        print(f"rdt: error: {multiprocessing.current_process().name}: {error or type(error).__name__}", file=sys.stderr)
        sys.exit(1)
