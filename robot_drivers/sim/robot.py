"""The embedded robot: two simulated ViperX arms and their cameras behind the same words as real ones.

`SimRobot` speaks `ArmState`, `ArmCommand` and `CameraFrame` on a clock of its own that `step` advances by one
control tick of 20 ms. It never renders unasked, so a tick costs its physics (10 steps of 2 ms, about 0.5 ms
of one core) and 0.02 ms of judging contacts. Robots of one process share the compiled scene; share a renderer
among them too. For safety limits see `robot_drivers/limits`: this is a bare motor, which only clips to the
range of its actuators.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from robot_drivers.sim import tasks
from robot_drivers.sim.render import Renderer, make_renderer
from robot_drivers.sim.scene import (
    ARM_DIM,
    CONTROL_HZ,
    GRIPPER_CLOSED_M,
    GRIPPER_OPEN_M,
    HOME,
    JOINTS,
    PHYSICS_STEPS,
    SIDES,
    import_mujoco,
    load_scene,
)
from robot_drivers.types import ArmCommand, ArmState, CameraFrame

TICK_NS = round(1e9 / CONTROL_HZ)
_ARM = {side: slice(8 * i, 8 * i + 8) for i, side in enumerate(SIDES)}  # in qpos and ctrl: 6 joints, 2 fingers
RECENT_TICKS = 5  # a finger that holds still loses contact now and then for a tick


class SimRobot:
    """One episode of one task, from its seeded start."""

    def __init__(
        self,
        task: str,
        seed: int,
        *,
        distribution: str | None = None,
        image_size: tuple[int, int] = (64, 64),
        renderer: Renderer | None = None,
    ) -> None:
        """`distribution` defaults to the task's own. `image_size` is (height, width) of `frame`, rendered by
        `renderer` where one is given (its size then holds, and closing it stays with the giver)."""
        self._mujoco = import_mujoco()
        self.task = tasks.lookup(tasks.TASKS, task)
        self.scene = load_scene(self.task.scene)
        self._model = self.scene.model
        self.data = self._mujoco.MjData(self._model)
        self._image_size = image_size
        self._renderer, self._owns_renderer = renderer, renderer is None

        model = self._model
        self._object_qpos = {body: model.jnt_qposadr[model.body(body).jntadr[0]] for body in self.scene.object_bodies}
        object_ids = [model.body(body).id for body in self.scene.object_bodies]
        self._is_object = np.isin(model.geom_bodyid, object_ids)  # (geoms,)
        self._pair_names: dict[tuple[int, int], frozenset[str]] = {}

        for side in SIDES:
            self.data.ctrl[_ARM[side]] = self.data.qpos[_ARM[side]] = _motor_targets(HOME)
        self._place_objects(distribution or self.task.distribution, seed)
        self._mujoco.mj_forward(model, self.data)

        self.ticks = 0
        self.first_touch: str | None = None  # the arm that first touched an object
        self.highest_reward = 0
        self._recent: deque[frozenset[frozenset[str]]] = deque(maxlen=RECENT_TICKS)
        self._judge()

    @property
    def now_ns(self) -> int:
        """Simulated time since the start of the episode, in ns."""
        return self.ticks * TICK_NS

    def state(self, side: str) -> ArmState:
        """Measured joints (7,): six in rad, then the gripper's opening (about 0 to 1, 1 is open)."""
        positions = self.data.qpos[_ARM[side]][:ARM_DIM].copy()
        positions[-1] = (positions[-1] - GRIPPER_CLOSED_M) / (GRIPPER_OPEN_M - GRIPPER_CLOSED_M)
        return ArmState(positions, self.now_ns)

    def command(self, side: str, command: ArmCommand) -> None:
        """Sets the targets (7,) of one arm from the next `step` on, in the order and units of `state`."""
        positions = command.positions
        if positions.shape != (ARM_DIM,) or not np.isfinite(positions).all():
            raise ValueError(
                f"the {side} arm takes {ARM_DIM} finite targets ({', '.join(JOINTS)} in rad, opening), "
                f"got {positions}: it keeps its last ones"
            )
        self.data.ctrl[_ARM[side]] = _motor_targets(positions)

    def step(self) -> None:
        """One control tick: 20 ms of physics, then the contacts are judged."""
        self._mujoco.mj_step(self._model, self.data, PHYSICS_STEPS)
        self.ticks += 1
        self._judge()

    def frame(self, role: str) -> CameraFrame:
        """What a camera (`external`, `right_wrist`, `left_wrist`, or a stock one by name) sees now."""
        if self._renderer is None:
            self._renderer = make_renderer(self._model, *self._image_size)
        return CameraFrame(role, self._renderer.render(self.data, role), self.now_ns)

    def object_poses(self) -> dict[str, np.ndarray]:
        """Object -> pose (7,): position in m, then quaternion w, x, y, z, in the world."""
        return {body: self.data.qpos[a : a + 7].copy() for body, a in self._object_qpos.items()}

    @property
    def contacts(self) -> frozenset[frozenset[str]]:
        """Pairs of touching geoms, by name, of which at least one belongs to an object."""
        return self._contacts

    def reward(self) -> int:
        """The benchmark's reward of this moment, 0..4."""
        return self._reward

    def strict_success(self, task: tasks.Task | None = None) -> bool:
        """Whether the job is done, judged by the contacts of the last 0.1 s. For the end of an episode.

        The job is the robot's own, or that of another task on the same scene.
        """
        positions = {body: self.data.qpos[a : a + 3] for body, a in self._object_qpos.items()}
        return (task or self.task).strict_success(frozenset().union(*self._recent), positions)

    def close(self) -> None:
        """Frees the renderer that the robot made for itself."""
        if self._owns_renderer and self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> SimRobot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _place_objects(self, distribution: str, seed: int) -> None:
        positions = tasks.draw_positions(distribution, seed)
        if set(positions) != set(self._object_qpos):
            raise ValueError(
                f"distribution {distribution!r} places {sorted(positions)}, but the scene of task "
                f"{self.task.name!r} has {sorted(self._object_qpos)}"
            )
        for body, address in self._object_qpos.items():
            self.data.qpos[address : address + 7] = (*positions[body], 1.0, 0.0, 0.0, 0.0)

    def _judge(self) -> None:
        pairs = self.data.contact.geom
        pairs = pairs[self._is_object[pairs].any(axis=1)]
        self._contacts = frozenset(self._names(*pair) for pair in pairs.tolist())
        self._recent.append(self._contacts)
        self._reward = self.task.reward(self._contacts)
        self.highest_reward = max(self.highest_reward, self._reward)
        if self.first_touch is None:
            sides = {side for pair in self._contacts for side in SIDES for geom in pair if f"_{side}/" in geom}
            self.first_touch = min(sides, default=None)

    def _names(self, first: int, second: int) -> frozenset[str]:
        pair = self._pair_names.get((first, second))
        if pair is None:
            pair = frozenset((self.scene.geom_names[first], self.scene.geom_names[second]))
            self._pair_names[first, second] = pair
        return pair


def _motor_targets(positions: np.ndarray) -> np.ndarray:
    """Joints (7,) -> the 8 actuators of an arm: the fingers slide in opposite directions."""
    slide = GRIPPER_CLOSED_M + positions[-1] * (GRIPPER_OPEN_M - GRIPPER_CLOSED_M)
    return np.array([*positions[:-1], slide, -slide])
