"""What the words of a command or the parameters of a node make of a robot and a policy."""

from __future__ import annotations

import os

from data_pipeline.schema.embodiment import Embodiment
from deploy.graph import is_simulated, over_topics
from deploy.loop import LoopSettings
from deploy.realtime.backends import ENGINE, REMOTE
from deploy.realtime.supervisor import RunSpec

REAL_HZ = 200.0
KEY = "RDT_API_KEY"
"""Where the key of a policy server is read from."""


def run_spec(robot: Embodiment, policy: str, device: str, settings: LoopSettings | None = None) -> RunSpec:
    """The run of a robot: `policy` is a checkpoint folder, or the address of a policy server (ws://HOST:PORT)."""
    remote = policy.startswith(("ws://", "wss://"))
    here, there = {"checkpoint": policy, "device": device}, {"address": policy, "api_key": os.environ.get(KEY)}
    return RunSpec(
        robot=over_topics(robot),
        open_backend=REMOTE if remote else ENGINE,
        backend_options=there if remote else here,
        settings=settings or default_settings(robot),
    )


def default_settings(robot: Embodiment) -> LoopSettings:
    """As rehearsed for the simulated robot, whose motors take a target every 20 ms; for others smooth and fast."""
    if is_simulated(robot):
        return LoopSettings()
    return LoopSettings(tick_hz=REAL_HZ, interpolation="cubic", handover="blend")
