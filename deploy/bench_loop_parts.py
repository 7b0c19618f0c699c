"""What `rdt bench loop` runs between: a motor that obeys at once, a policy that answers at once, a bare loop."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.realtime.clock import Deadlines, ask_for_priority, now_ns
from deploy.realtime.memory import Ring, RingSpec
from robot_drivers.types import ArmCommand, ArmState

HORIZON = 64
AMPLITUDE_RAD, OMEGA_PER_S = 0.15, 3.0  # of the wave: 0.45 rad/s at most, never a jump away from where the arm is
BARE = np.dtype([("lateness_ns", np.int64), ("missed", np.int64)])
SILENCE = "silence_file"
RAISED = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)  # a pair of ViperX, ready


def bench_robot(silence: Path) -> Embodiment:
    """ALOHA's limits, rate and three cameras; while the file `silence` exists, joint states stay away."""
    robot = Embodiment.from_yaml(find_config("robots", "aloha_viperx")).to_dict()
    for arm in robot["arms"].values():
        arm["connection"] = {SILENCE: str(silence)}
    return Embodiment.from_dict(robot)


def with_kinematics(robot: Embodiment) -> Embodiment:
    """A pair of ViperX where gym-aloha's scene has them: face to face, 0.938 m apart, the table at z = 0."""
    model = find_config("robots", "aloha_viperx").parents[2] / "assets/robots/viperx_300s.urdf"
    arm = {"model": str(model), "tool_frame": "gripper_link", "tool_offset_m": [0.135, 0.0, 0.0]}
    arms = {
        "left": {**arm, "base_m": [-0.469, 0.5, 0.0]},
        "right": {**arm, "base_m": [0.469, 0.5, 0.0], "base_rpy_rad": [0.0, 0.0, math.pi]},
    }
    box = {"box_low_m": [-0.6, 0.0, 0.02], "box_high_m": [0.6, 1.0, 0.8]}
    return Embodiment.from_dict({**robot.to_dict(), "kinematics": {"arms": arms, **box}})


class ObedientMotor:
    """Is where it was told to be."""

    def __init__(self, positions: np.ndarray, silence: Path, clock: Callable[[], int] = now_ns) -> None:
        self._positions, self._silence, self._clock = positions, silence, clock
        self._last = ArmState(self._positions, clock())

    def state(self) -> ArmState:
        if not self._silence.exists():
            self._last = ArmState(self._positions.copy(), self._clock())
        return self._last

    def command(self, command: ArmCommand) -> None:
        self._positions = command.positions.copy()

    def hold(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_motor(robot: Embodiment, side: str) -> ObedientMotor:
    return ObedientMotor(np.zeros(robot.arms[side].num_entries), Path(robot.arms[side].connection[SILENCE]))


class WavePolicy:
    """Both first joints follow one slow wave of the clock. With `busy`, a thread computes without a pause."""

    image_history = 1

    def __init__(self, robot: Embodiment, options: dict[str, Any]) -> None:
        self.cameras = tuple(robot.cameras)
        self._robot = robot
        if options["busy"]:
            threading.Thread(target=_compute, daemon=True).start()

    def predict(self, observation: Observation) -> ActionChunk:
        times_s = observation.stamp_ns * 1e-9 + np.arange(HORIZON) / observation.control_hz
        rows = np.zeros((HORIZON, self._robot.num_native))
        rows[:, [self._robot.arm_slice(side).start for side in self._robot.arms]] = wave(times_s)[:, None]
        actions, mask = self._robot.to_unified(rows, "action")
        return ActionChunk(observation.stamp_ns, observation.control_hz, actions, mask)


def wave(times_s: np.ndarray) -> np.ndarray:
    """Radians, at times of the monotonic clock."""
    return AMPLITUDE_RAD * (1 - np.cos(OMEGA_PER_S * times_s))


def open_policy(robot: Embodiment, options: dict[str, Any]) -> WavePolicy:
    return WavePolicy(robot, options)


def _compute() -> None:
    matrix = np.random.default_rng(0).normal(size=(256, 256))
    while True:
        matrix = np.tanh(matrix @ matrix)


def run_bare_loop(hz: float, ring: RingSpec, closing: Any) -> None:
    """The body of a process that only meets its deadlines, until the event `closing`."""
    beats = Ring(ring)
    record = beats.empty()
    ask_for_priority()
    deadlines = Deadlines(hz)
    while not closing.is_set():
        record["lateness_ns"], record["missed"] = deadlines.wait(), deadlines.missed
        beats.write(record)
