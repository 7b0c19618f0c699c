"""The embedded bimanual simulator as a Gymnasium environment, and an RDT checkpoint as what acts in it.

One step is one action of the robot's recordings, 80 ms: its target is reached in a straight line over four control
ticks, through the same limits as everywhere. Made by a factory, so that what lives in `rdt/` needs no body:

    training(config, make_env=partial(SimEnv, SimEnvConfig(reward="progress")))

Success ends an episode, which is kinder than `rdt eval`: that asks whether the job is done when its time is up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, unknown_name
from data_pipeline.schema.types import Observation
from deploy.engine import InferenceEngine
from deploy.interpolate import lerp
from robot_drivers.bimanual import Bimanual
from robot_drivers.errors import RobotError
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import SIMULATED
from robot_drivers.sim.arm import SimArm
from robot_drivers.sim.expert import EPISODE_TICKS, POLICY_HZ, TICKS_PER_ACTION
from robot_drivers.sim.render import Renderer, make_renderer
from robot_drivers.sim.robot import SimRobot
from robot_drivers.sim.scene import CONTROL_HZ, SIDES, load_scene
from robot_drivers.sim.tasks import ENVIRONMENTS, TASKS, lookup

try:
    import gymnasium
    from gymnasium import spaces
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"the environment needs gymnasium ({error}): pip install 'rdt-stack[sim]'") from None

Reward = Literal["sparse", "progress"]
NUM_STAGES = 4  # of the benchmark's reward
STATE = "state"
"""Key of the joints in an observation; the other keys are roles of cameras."""

VIEW_CAMERA, VIEW_SIZE = "front_close", (240, 320)  # of `render`: height, width


@dataclass(frozen=True)
class SimEnvConfig:
    """What is asked for, what is seen, what is paid."""

    environment: str = "sim_transfer"
    task: str | None = None  # of the environment's; none: its first
    robot: str = "sim_bimanual"  # a robot YAML under control joint, by name or path
    cameras: tuple[str, ...] = ("external",)
    image_size: tuple[int, int] = (64, 64)  # height, width
    history: int = 1  # frames of each camera, one step apart; one that is not there yet is black
    reward: Reward = "sparse"  # 1 for success; progress: a quarter more for each stage of the benchmark, once
    max_steps: int = EPISODE_TICKS // TICKS_PER_ACTION  # of 80 ms, then the episode is cut


class SimEnv(gymnasium.Env):
    """Two ViperX arms at a table.

    Observations: `state` float32 (14,), measured joints in rad and openings in [0, 1], left arm first; each camera
    uint8 (history, height, width, 3), oldest frame first. Actions: float32 (14,), targets of the same at the end of the
    step. Limits of the robot have the last word; after a fault the arms hold until the episode ends.

    `reset(seed=s)` is scene s; without a seed the scene is drawn. `info`: `scene`, `success`, `stage` (the benchmark's
    reward, 0 to 4), `fault`, and `sent` (14,), the targets that the arms were told last, after all limits.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": POLICY_HZ}  # noqa: RUF012

    def __init__(self, config: SimEnvConfig | None = None, render_mode: str | None = None) -> None:
        self.config = config = config or SimEnvConfig()
        self.render_mode = render_mode
        self.robot = _joint_robot(config)
        self.task = TASKS[_task_of(config)]
        self._distribution = lookup(ENVIRONMENTS, config.environment).distribution
        self._ticks_per_step = round(CONTROL_HZ / self.robot.rate_hz)
        bounds = Bounds.of(self.robot.motors)
        shape = (config.history, *config.image_size, 3)
        self.observation_space = spaces.Dict(
            {STATE: spaces.Box(-np.inf, np.inf, (self.robot.num_native,), np.float32)}
            | {role: spaces.Box(0, 255, shape, np.uint8) for role in config.cameras}
        )
        self.action_space = spaces.Box(bounds.low.astype(np.float32), bounds.high.astype(np.float32), dtype=np.float32)
        self._renderers: dict[tuple[int, int], Renderer] = {}
        self._sim: SimRobot | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self._scene = int(self.np_random.integers(2**32)) if seed is None else seed
        self._sim = SimRobot(
            self.task.name,
            self._scene,
            distribution=self._distribution,
            renderer=self._renderer(self.config.image_size),
        )
        self._body = Bimanual(self.robot, {s: SimArm(self._sim, s) for s in SIDES}, SIMULATED, CONTROL_HZ)
        self._target = self._body.state()[0]
        self._fault = False
        self._best_stage, self._steps = self._sim.reward(), 0
        black = np.zeros((self.config.history, *self.config.image_size, 3), np.uint8)
        self._frames = dict.fromkeys(self.config.cameras, black)
        return self._observation(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        sim = self._running()
        before, self._target = self._target, np.asarray(action, dtype=np.float64)
        for tick in range(1, self._ticks_per_step + 1):
            self._command(lerp(before, self._target, tick / self._ticks_per_step), sim.now_ns)
            sim.step()
        self._steps += 1
        success = sim.strict_success()
        stages, self._best_stage = sim.reward() - self._best_stage, max(self._best_stage, sim.reward())
        reward = float(success)
        if self.config.reward == "progress":
            reward += max(stages, 0) / NUM_STAGES
        truncated = not success and self._steps >= self.config.max_steps
        return self._observation(), reward, success, truncated, self._info(success)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """uint8 (height, width, 3) of the scene from the front, where the render mode is rgb_array."""
        if self.render_mode is None:
            return None
        return self._renderer(VIEW_SIZE).render(self._running().data, VIEW_CAMERA)

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self._sim = None

    def _command(self, native: np.ndarray, stamp_ns: int) -> None:
        self._body.state()  # what the limits look at
        if self._fault:
            self._body.hold()
            return
        try:
            self._body.command(native, stamp_ns)
        except RobotError:
            self._fault = True

    def _observation(self) -> dict[str, np.ndarray]:
        sim = self._running()
        for role, frames in self._frames.items():
            self._frames[role] = np.concatenate([frames[1:], sim.frame(role).image[None]])
        return {STATE: self._body.state()[0].astype(np.float32), **self._frames}

    def _info(self, success: bool) -> dict[str, Any]:
        sent = self._body.set_point
        return {
            "scene": self._scene,
            "success": success,
            "stage": self._running().reward(),
            "fault": self._fault,
            "sent": (self._target if sent is None else sent).astype(np.float32),
        }

    def _running(self) -> SimRobot:
        if self._sim is None:
            raise RuntimeError("the environment must be reset before it is used, and again after it was closed")
        return self._sim

    def _renderer(self, size: tuple[int, int]) -> Renderer:
        if size not in self._renderers:
            self._renderers[size] = make_renderer(load_scene(self.task.scene).model, *size)
        return self._renderers[size]


def engine_chunks(
    engine: InferenceEngine, instruction: str, seed: int = 0
) -> Callable[[np.ndarray | Mapping[str, Any]], np.ndarray]:
    """An RDT checkpoint for `rdt.alignment.chunk_policy.ChunkPolicy`: observations of `SimEnv` -> chunks in native
    units (n, horizon, 14). Each observation it is asked gets fresh noise, the same in the same order for one seed."""
    robot, asked = engine.robot, seed << 32

    def predict(observations: np.ndarray | Mapping[str, Any]) -> np.ndarray:
        nonlocal asked
        rows = cast(Mapping[str, np.ndarray], observations)
        seen = [_observation_of(engine, rows, row, instruction) for row in range(len(rows[STATE]))]
        keys = range(asked + 1, asked + 1 + len(seen))
        asked += len(seen)
        chunks = engine.predict_batch(seen, list(keys))
        return np.stack([robot.from_unified(chunk.actions, "action") for chunk in chunks]).astype(np.float32)

    return predict


def _observation_of(engine: InferenceEngine, rows: Mapping[str, np.ndarray], row: int, instruction: str) -> Observation:
    robot, history = engine.robot, engine.image_history
    state, mask = robot.to_unified(rows[STATE][row].astype(np.float64), "state")
    images = {}
    for role in engine.cameras:
        if role not in rows or rows[role].shape[1] != history:
            there = {key: values.shape[1:] for key, values in rows.items() if key != STATE}
            raise ValueError(f"the policy looks at {history} frames of {role!r}, the environment gives {there}")
        images[role] = rows[role][row]
    return Observation(
        state=state,
        state_mask=mask,
        images=images,
        image_masks={role: frames.any(axis=(1, 2, 3)) for role, frames in images.items()},
        instruction=instruction,
        control_hz=robot.rate_hz,
        stamp_ns=0,
    )


def _joint_robot(config: SimEnvConfig) -> Embodiment:
    robot = Embodiment.from_yaml(find_config("robots", config.robot))
    drivers = {side: arm.driver for side, arm in robot.arms.items()}
    if robot.control != "joint" or list(drivers.items()) != [(side, "sim") for side in SIDES]:
        raise ValueError(
            f"the environment drives the simulated arms {list(SIDES)} by joints, robot {robot.name!r} has {drivers} "
            f"under control {robot.control}"
        )
    if config.reward not in get_args(Reward):
        raise ValueError(unknown_name("reward", config.reward, get_args(Reward)))
    if config.history < 1 or config.max_steps < 1:
        raise ValueError(f"history and max_steps must be at least 1, got {config.history} and {config.max_steps}")
    return robot


def _task_of(config: SimEnvConfig) -> str:
    names = lookup(ENVIRONMENTS, config.environment).tasks
    if config.task is not None and config.task not in names:
        raise ValueError(unknown_name("task", config.task, names))
    return config.task or names[0]
