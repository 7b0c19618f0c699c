"""Who answers the inference process: each opener takes the running robot and its options, and is named in a spec."""

from __future__ import annotations

from typing import Any

from data_pipeline.schema.embodiment import Embodiment
from deploy.realtime.inference import Backend

ENGINE = "deploy.realtime.backends:open_engine"
REMOTE = "deploy.realtime.backends:open_remote"


def open_engine(robot: Embodiment, options: dict[str, Any]) -> Backend:
    """The network in this process. `options`: checkpoint (a folder), device, guided (prefixes will come).

    Raises `ValueError` where the checkpoint was trained for another robot.
    """
    from deploy.device import choose_device
    from deploy.engine import InferenceEngine
    from rdt.train.config import differences

    device = choose_device(options["device"])
    engine = InferenceEngine(options["checkpoint"], device, guided=options["guided"])
    changed = differences(_spoken(engine.robot), _spoken(robot))
    if changed:
        raise ValueError(
            f"{options['checkpoint']} was trained for robot {engine.robot.name!r}, this one is {robot.name!r} and "
            f"differs in what a policy sees and says ({'; '.join(changed)}): run the robot that it was trained for, or "
            "fine-tune"
        )
    if device.type == "cpu":  # on a GPU the constructor did
        engine.warm_up()
    return engine


def open_remote(robot: Embodiment, options: dict[str, Any]) -> Backend:
    """A policy server elsewhere. `options`: address (ws://host:port), api_key or None.

    Raises `ContractMismatchError` where the server's policy is for another robot. A request that the link loses has
    failed; the next one connects anew.
    """
    from deploy.serve.client import RemotePolicy

    return RemotePolicy(options["address"], robot, api_key=options["api_key"])


def _spoken(robot: Embodiment) -> dict[str, Any]:
    """What of a robot a policy depends on: order, units and slots, rate and offset; not its buses or its limits."""
    return {
        "rate_hz": robot.rate_hz,
        "control": robot.control,
        "action_offset_steps": robot.action_offset_steps,
        "arms": {
            side: {
                "joints": {joint.name: {"slot": joint.slot, "unit": joint.unit} for joint in arm.joints},
                "gripper": None
                if arm.gripper is None
                else {
                    "slot": arm.gripper.slot,
                    "state_range": list(arm.gripper.state_range),
                    "action_range": list(arm.gripper.action_range),
                },
            }
            for side, arm in robot.arms.items()
        },
    }
