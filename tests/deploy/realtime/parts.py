"""Arms and a policy small enough for processes of a test: a motor that obeys, one that sways, a chunk that leans up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.prefix import Prefix
from deploy.realtime.supervisor import Supervisor
from robot_drivers.types import ArmCommand, ArmState

STEP_RAD = 0.01
HORIZON = 16
PATIENCE_S = 30.0


class Motor:
    """Moves to its target at once. The file named by RDT_TEST_ARM, where it is there, is what goes wrong with it."""

    def __init__(self, entries: int) -> None:
        self.positions = np.zeros(entries)

    def state(self) -> ArmState:
        if _fault() == "silent":
            raise OSError("the bus is silent")
        stale = 300_000_000 if _fault() == "stale" else 0
        return ArmState(self.positions.copy(), time.monotonic_ns() - stale)

    def command(self, command: ArmCommand) -> None:
        self.positions = command.positions.copy()

    def hold(self) -> None:
        pass

    def close(self) -> None:
        pass


def _fault() -> str:
    file = Path(os.environ.get("RDT_TEST_ARM", "/nonexistent"))
    return file.read_text() if file.is_file() else ""


def open_motor(robot: Embodiment, side: str) -> Motor:
    entries = robot.arm_slice(side)
    return Motor(entries.stop - entries.start)


class Swaying(Motor):
    """Moved by hand: between 0.2 and 0.3 everywhere. The word "let go" is what goes wrong with it."""

    def state(self) -> ArmState:
        if _fault() == "let go":
            raise OSError("nobody leads")
        now = time.monotonic_ns()
        return ArmState(np.full_like(self.positions, 0.25 + 0.05 * np.sin(now * 1e-9)), now)


def open_swaying(robot: Embodiment, side: str) -> Swaying:
    entries = robot.arm_slice(side)
    return Swaying(entries.stop - entries.start)


class Leaning:
    """Each action a little above the one before, from the state that was seen."""

    image_history = 1

    def __init__(self, robot: Embodiment, options: dict[str, Any]) -> None:
        self.cameras = tuple(robot.cameras)
        self._robot = robot
        self._options = options
        self._num_calls = 0

    def predict(self, observation: Observation, prefix: Prefix | None = None) -> ActionChunk:
        self._num_calls += 1
        if self._options.get("guided") and self._num_calls > 2:
            assert prefix is not None and prefix.chunk.start_ns <= observation.stamp_ns, prefix
        if self._options.get("raises"):
            raise RuntimeError("the network is ill")
        time.sleep(self._options.get("seconds", 0.0))
        start = self._robot.from_unified(observation.state)
        rows = start + self._options.get("step_rad", STEP_RAD) * np.arange(1, HORIZON + 1)[:, None]
        actions, mask = self._robot.to_unified(rows, "action")
        return ActionChunk(observation.stamp_ns, observation.control_hz, actions.astype(np.float32), mask)


def open_leaning(robot: Embodiment, options: dict[str, Any]) -> Leaning:
    return Leaning(robot, options)


def open_slowly(robot: Embodiment, options: dict[str, Any]) -> Leaning:
    """As a large network: it takes `opening` seconds, and says in the file `told` that it has begun."""
    Path(options["told"]).write_text(str(os.getpid()))
    time.sleep(options["opening"])
    return Leaning(robot, options)


class Stubborn:
    """A camera that will not be closed; each one that was asked to is noted."""

    def __init__(self) -> None:
        self.asked = False

    def frame(self) -> None:
        return None

    def close(self) -> None:
        self.asked = True
        raise OSError("the camera is stuck")


def blind_robot() -> Embodiment:
    """Arms on no topics, and no cameras."""
    raw = read_yaml(find_config("robots", "piper_pair"))
    return Embodiment.from_dict({**raw, "cameras": {}})


def runs(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def is_in(supervisor: Supervisor, mode: str) -> Callable[[], bool]:
    return lambda: supervisor.status()["mode"] == mode
