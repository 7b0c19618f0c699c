"""What the words of a command or the parameters of a node make of a robot and a policy."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data_pipeline.schema.embodiment import Embodiment
from deploy.action_buffer import Handover
from deploy.graph import over_topics
from deploy.loop import LoopSettings
from deploy.realtime.backends import ENGINE, REMOTE
from deploy.realtime.inference import BackendSpec
from deploy.realtime.supervisor import PICTURE, RunSpec
from robot_drivers.limits.chain import SIMULATED, LimitSettings

REAL_HZ = 200.0
KEY = "RDT_API_KEY"
"""Where the key of a policy server is read from."""


def run_spec(
    robot: Embodiment,
    policy: str,
    device: str,
    handover: Handover | None = None,
    against: str | None = None,
    leader: Embodiment | None = None,
) -> RunSpec:
    """The run of a robot: `policy` is a checkpoint folder, or the address of a policy server (ws://HOST:PORT).

    `against` is a second one, to compare it with; `leader` are arms with which a person takes over. Raises `ValueError`
    for real-time chunking with a server, whose protocol carries no prefix.
    """
    guided = (handover or default_settings(robot).handover) == "rtc"
    spec = default_spec(robot, *_backend(policy, device, guided), handover)
    second = None if against is None else _backend(against, device, guided)
    return replace(spec, against=second, leader=leader, takes_over=leader is not None)


def _backend(policy: str, device: str, guided: bool) -> BackendSpec:
    if not policy.startswith(("ws://", "wss://")):
        return BackendSpec(ENGINE, {"checkpoint": policy, "device": device, "guided": guided})
    if guided:
        raise ValueError("hand-over 'rtc' needs the network here: give a checkpoint, or choose blend for a server")
    return BackendSpec(REMOTE, {"address": policy, "api_key": os.environ.get(KEY)})


def default_spec(
    robot: Embodiment, open_backend: str, options: Mapping[str, Any], handover: Handover | None = None
) -> RunSpec:
    """The run of a robot, whoever says what it shall do; a simulated one is reached over topics."""
    settings = default_settings(robot)
    return RunSpec(
        over_topics(robot),
        open_backend,
        dict(options),
        settings=settings if handover is None else replace(settings, handover=handover),
        limits=default_limits(robot),
        frame_size=PICTURE if robot.is_simulated else None,  # smaller than a topic's may be, so quicker to write
    )


def default_settings(robot: Embodiment) -> LoopSettings:
    """As rehearsed for the simulated robot, whose motors take a target every 20 ms; for others smooth and fast.

    Its policies speak 12.5 times a second at full speed: between two actions a joint moves 0.25 rad and a gripper
    closes, so a chunk that was thought of a step ago begins so much farther away.
    """
    if robot.is_simulated:
        return LoopSettings(jump_rad=0.7, gripper_jump=math.inf, jump_m=0.3)
    return LoopSettings(tick_hz=REAL_HZ, interpolation="cubic", handover="blend")


def default_limits(robot: Embodiment) -> LimitSettings:
    """Those of real motors; the simulated robot moves at full speed from the first step on, as it was rehearsed."""
    return SIMULATED if robot.is_simulated else LimitSettings()
