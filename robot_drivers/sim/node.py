"""The embedded robot as a ROS 2 robot: physics in real time, arms and cameras on topics, scenes by service.

    python -m robot_drivers.sim.node --environment sim_transfer --seed 7

    /<robot>/<side>/joint_states, /<robot>/<side>/command       see `arm_node.py`
    /<robot>/cameras/<role>/image_raw                           see `camera_node.py`
    /<robot>/reset      std_srvs/Trigger: the next scene, arms at home
    /<robot>/repeat     std_srvs/Trigger: the same scene again, as it was
    /<robot>/outcome    std_srvs/Trigger: what has been done so far, as JSON in `message`

The arms hold their last target when nobody commands. The scenes of `--seed S` are those of `rdt eval --seed S`, one
after another with every reset, so that both roads can be compared.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from robot_drivers.arm_node import ArmTopicServer
from robot_drivers.camera_node import CameraTopicServer
from robot_drivers.messages import Link, Trigger
from robot_drivers.sim.robot import TICK_NS, SimRobot
from robot_drivers.sim.tasks import ENVIRONMENTS, EVALUATION_SEED, SEEDS_PER_RUN, TASKS, lookup
from robot_drivers.types import ArmCommand, ArmState, CameraFrame


class SimNode:
    """One scene after another on the clock of the machine."""

    def __init__(self, robot: Embodiment, environment: str, task: str | None, seed: int, fps: float) -> None:
        self._environment = lookup(ENVIRONMENTS, environment)
        self._task = TASKS[lookup({name: name for name in self._environment.tasks}, task or self._environment.tasks[0])]
        self._number = EVALUATION_SEED + seed * SEEDS_PER_RUN  # of the scene; the first one is that of `rdt eval`
        self._frame_ns = round(1e9 / fps)
        self._roles = tuple(robot.cameras)
        self._lock = threading.Lock()
        self._wanted = 1  # scenes that were asked for, repeated ones too; drawing and physics stay in one thread
        self._made = 0
        self._sim: SimRobot | None = None
        self._link = Link("sim_robot", namespace=robot.name)
        self._arms = ArmTopicServer(self._link, robot, {side: _Arm(self, side) for side in robot.arms})
        self._cameras = CameraTopicServer(self._link, self._roles)
        self._link.node.create_service(Trigger, "reset", lambda _, answer: self._make(answer, self._number + 1))
        self._link.node.create_service(Trigger, "repeat", lambda _, answer: self._make(answer, self._number))
        self._link.node.create_service(Trigger, "outcome", self._outcome)
        self._now_ns = time.monotonic_ns()
        self.closing = threading.Event()

    def run(self) -> None:
        """Step, publish and sleep, until `closing`."""
        next_frame_ns = 0
        try:
            while not self.closing.is_set():
                sim = self._scene()
                with self._lock:
                    self._arms.obey()
                    sim.step()
                self._now_ns += TICK_NS
                behind = time.monotonic_ns() - self._now_ns
                if behind > 10 * TICK_NS:  # a machine that cannot keep up: the scene stands still meanwhile
                    self._now_ns += behind
                elif behind < 0:
                    time.sleep(-behind * 1e-9)
                self._arms.publish()
                if self._now_ns >= next_frame_ns:
                    next_frame_ns = max(next_frame_ns, self._now_ns - self._frame_ns) + self._frame_ns
                    for role in self._roles:
                        self._cameras.publish(CameraFrame(role, sim.frame(role).image, self._now_ns))
        finally:
            self._link.close()
            if self._sim:
                self._sim.close()

    @property
    def now_ns(self) -> int:
        """The stamp of the last tick."""
        return self._now_ns

    @property
    def sim(self) -> SimRobot:
        assert self._sim is not None, "the first scene is made before anything is asked of it"
        return self._sim

    def _scene(self) -> SimRobot:
        if self._made < self._wanted:
            wanted = self._wanted
            sim = SimRobot(self._task.name, self._number, distribution=self._environment.distribution)
            with self._lock:
                before, self._sim, self._made = self._sim, sim, wanted
            if before:
                before.close()
        return self.sim

    def _make(self, answer: Any, number: int) -> Any:
        """Ask for a scene, and wait for it."""
        self._number = number  # before it is wanted: the thread that draws reads it then
        wanted = self._wanted = self._wanted + 1
        until = time.monotonic() + 10.0
        while self._made < wanted and time.monotonic() < until:
            time.sleep(0.01)
        answer.success, answer.message = self._made >= wanted, f"scene {number}"
        return answer

    def _outcome(self, _: Any, answer: Any) -> Any:
        with self._lock:
            sim = self.sim
            done = {
                "task": self._task.name,
                "scene": self._number,
                "success": sim.strict_success(),
                "benchmark_success": sim.highest_reward == 4,
                "seconds": sim.now_ns * 1e-9,
            }
        answer.success, answer.message = bool(done["success"]), json.dumps(done)
        return answer


class _Arm:
    """An arm of whatever scene there is, on the clock of the machine."""

    def __init__(self, node: SimNode, side: str) -> None:
        self._node, self._side = node, side

    def state(self) -> ArmState:
        return ArmState(self._node.sim.state(self._side).positions, self._node.now_ns)

    def command(self, command: ArmCommand) -> None:
        self._node.sim.command(self._side, command)

    def hold(self) -> None:
        """The simulated motors keep their last targets by themselves."""

    def close(self) -> None:
        """Nothing of its own to let go of."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The embedded robot on ROS 2 topics.")
    parser.add_argument("--robot", default="sim_bimanual", help="robot YAML, by name or path")
    parser.add_argument("--environment", default="sim_transfer", choices=sorted(ENVIRONMENTS))
    parser.add_argument("--task", help="one of the environment's; else its first")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene")
    parser.add_argument("--fps", type=float, default=25.0, help="pictures of each camera")
    args, _ = parser.parse_known_args(arguments)  # launch adds words of its own
    robot = Embodiment.from_yaml(find_config("robots", args.robot))
    node = SimNode(robot, args.environment, args.task, args.seed, args.fps)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.closing.set())
    node.run()


if __name__ == "__main__":
    main()
