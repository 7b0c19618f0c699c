"""RoboTwin's legacy plug-in (spec interop.md section 9.1).

The evaluator imports a folder `policy/NAME/` whose `__init__.py` is one line,

    from deploy.serve.robotwin import encode_obs, eval, get_model, reset_model

and calls these functions, so that every control step is seen and the network gets the frame before. Where the
simulator lives in an environment of its own, `rdt serve --protocol robotwin` holds the model (`robotwin_tcp.py`); the
evaluator's client stands in its place and the functions stay the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipeline.schema.registry import unknown_name
from data_pipeline.schema.types import Observation
from deploy.serve.arms import join, split
from deploy.serve.contract import Contract
from deploy.serve.observations import Frames, assemble, picture, vector
from deploy.serve.openpi import Policy, native_actions
from deploy.serve.wire import as_map

CAMERAS = {"external": "head_camera", "right_wrist": "right_camera", "left_wrist": "left_camera"}
"""Camera role -> its name in the simulator."""

ARMS = ("left", "right")
"""Order of the arms in an action, each its joints and then its gripper."""

METHODS = ("update_obs", "get_action", "reset_model", "num_frames")
"""What may be called on a model by name."""


class RoboTwinModel:
    """A policy of two arms with grippers, and the frames of the current episode."""

    def __init__(
        self, policy: Policy, contract: Contract, num_actions: int | None = None, prompt: str | None = None
    ) -> None:
        """`num_actions` of a chunk are executed before the next one is asked for; None: all of them. `prompt` is the
        instruction where an observation brings none.

        Raises `ValueError` for a robot that the simulator does not have.
        """
        robot = contract.robot
        lacking = [side for side in ARMS if side not in robot.arms or robot.arms[side].gripper is None]
        if lacking or robot.control != "joint":
            raise ValueError(
                f"RoboTwin has two arms with grippers, driven by joint positions; robot {robot.name!r} has "
                f"{list(robot.arms)}, control {robot.control!r}"
            )
        if num_actions is not None and not 1 <= num_actions <= contract.horizon:
            raise ValueError(f"rdt_step must be 1 to {contract.horizon}, the policy's chunk, got {num_actions}")
        self.contract = contract
        self.num_actions = num_actions or contract.horizon
        self._policy = policy
        self._prompt = prompt
        self._native: np.ndarray | None = None
        self._instruction: Any = None
        self._frames: deque[Frames] = deque(maxlen=contract.history)
        self._num_steps = 0

    def call(self, func_name: Any, obs: Any = None) -> Any:
        """One of `METHODS`, by name, as the evaluator's client of a model elsewhere does it."""
        if not isinstance(func_name, str) or func_name not in METHODS:
            raise ValueError(unknown_name("method", str(func_name), METHODS))
        method = getattr(self, func_name)
        return method() if obs is None else method(obs)

    def num_frames(self) -> int:
        """Frames of each camera that the policy looks at, one control step apart."""
        return self.contract.history

    def update_obs(self, obs: Mapping[str, Any]) -> None:
        """Take one control step's observation, as `encode_obs` gives it."""
        observation = as_map(obs)
        self._native = self._native_state(as_map(observation.get("joint_action")))
        self._instruction = observation.get("instruction")
        pictures = as_map(observation.get("pictures"))
        there = {role: name for role, name in CAMERAS.items() if role in self.contract.cameras and name in pictures}
        self._frames.append({role: picture(f"camera `{name}`", pictures[name]) for role, name in there.items()})
        self._num_steps += 1

    def get_action(self) -> np.ndarray:
        """The next targets, float64 (num_actions, 14 for six-jointed arms): left joints, left gripper, right ones."""
        if self._native is None:
            raise ValueError("no observation has come in this episode: call update_obs first")
        chunk = self._policy.predict(self._observation())
        values = split(self.contract.robot, native_actions(self.contract, chunk)[: self.num_actions])
        return np.concatenate([part for side in ARMS for part in values[side] if part is not None], axis=1)

    def reset_model(self) -> None:
        """Forget the episode."""
        self._native = None
        self._frames.clear()
        self._num_steps = 0

    def _observation(self) -> Observation:
        assert self._native is not None
        taken_s = self._num_steps / self.contract.robot.rate_hz  # the simulator's own time: a step is a period
        return assemble(self.contract, self._native, list(self._frames), self._instruction or self._prompt, taken_s)

    def _native_state(self, values: Mapping[str, Any]) -> np.ndarray:
        def joints(side: str, count: int) -> np.ndarray:
            return vector(f"joint_action.{side}_arm", np.asarray(values.get(f"{side}_arm")), count)

        def gripper(side: str) -> np.ndarray:
            return vector(f"joint_action.{side}_gripper", np.atleast_1d(np.asarray(values.get(f"{side}_gripper"))), 1)

        return join(self.contract.robot, joints, gripper)


def get_model(usr_args: Mapping[str, Any]) -> RoboTwinModel:
    """The evaluator's first call, with the YAML and its overrides.

    Read are `ckpt_setting` (a checkpoint folder), `rdt_step` (actions executed of a chunk), `device`, and the
    evaluator's `left_arm_dim` and `right_arm_dim`, which must be those of the checkpoint's robot.
    """
    from deploy.device import choose_device  # torch: not where the model is served from another environment
    from deploy.engine import InferenceEngine
    from deploy.serve.command import contract_of

    if not usr_args.get("ckpt_setting"):
        raise ValueError("deploy_policy.yml lacks `ckpt_setting`: a checkpoint folder of this stack")
    engine = InferenceEngine(usr_args["ckpt_setting"], choose_device(usr_args.get("device", "auto")))
    for side in ARMS:
        wanted, arm = usr_args.get(f"{side}_arm_dim"), engine.robot.arms.get(side)
        if wanted is not None and (arm is None or len(arm.joints) != wanted):
            raise ValueError(
                f"the simulator's {side} arm has {wanted} joints, the checkpoint's robot {engine.robot.name!r} "
                f"{len(arm.joints) if arm else 'no such arm'}: choose an embodiment that fits in task_config"
            )
    num_actions = usr_args.get("rdt_step")
    contract = contract_of(engine, usr_args["ckpt_setting"])
    return RoboTwinModel(engine, contract, None if num_actions is None else int(num_actions))


def encode_obs(observation: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """What the model reads of `TASK_ENV.get_obs()`: the arms' values, the pictures, what to do."""
    cameras = as_map(observation.get("observation", observation))
    names = [name for name in CAMERAS.values() if name in cameras]
    return {
        "joint_action": observation["joint_action"],
        "pictures": {name: cameras[name]["rgb"] for name in names},
        "instruction": instruction,
    }


def eval(TASK_ENV: Any, model: Any, observation: Mapping[str, Any]) -> None:
    """One inference and its actions, until the chunk ends, the task succeeds or the step limit comes.

    The evaluator reads the observation after the last action itself; of those before, the model is shown as many as
    its history holds.
    """
    instruction = TASK_ENV.get_instruction()
    model.call(func_name="update_obs", obs=encode_obs(observation, instruction))
    actions = model.call(func_name="get_action")
    history = model.call(func_name="num_frames")
    for step, action in enumerate(actions, start=1):
        TASK_ENV.take_action(action, action_type="qpos")
        if TASK_ENV.eval_success or TASK_ENV.take_action_cnt >= TASK_ENV.step_lim:
            return
        if len(actions) - history < step < len(actions):
            model.call(func_name="update_obs", obs=encode_obs(TASK_ENV.get_obs(), instruction))


def reset_model(model: Any) -> None:
    """The evaluator's call before every episode."""
    model.call(func_name="reset_model")
