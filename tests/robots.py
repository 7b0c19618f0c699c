"""Robots for tests."""

from __future__ import annotations

import math
from pathlib import Path

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml


def bimanual(acceleration_limit: float = 15.0) -> Embodiment:
    """The embedded robot with the gentler acceleration of a real arm, in rad/s^2."""
    raw = read_yaml(find_config("robots", "sim_bimanual"))
    for arm in raw["arms"].values():
        for joint in arm["joints"]:
            joint["acceleration_limit"] = acceleration_limit
    return Embodiment.from_dict(raw)


VIPERX = {
    "model": str(Path(__file__).parents[1] / "assets/robots/viperx_300s.urdf"),
    "tool_frame": "gripper_link",
    "tool_offset_m": [0.135, 0.0, 0.0],
}


def with_kinematics(robot: Embodiment) -> Embodiment:
    """A pair of ViperX, placed as in ALOHA's scene: face to face, 0.938 m apart, the table at z = 0."""
    arms = {
        "left": {**VIPERX, "base_m": [-0.469, 0.5, 0.0]},
        "right": {**VIPERX, "base_m": [0.469, 0.5, 0.0], "base_rpy_rad": [0.0, 0.0, math.pi]},
    }
    box = {"box_low_m": [-0.6, 0.0, 0.02], "box_high_m": [0.6, 1.0, 0.8]}
    return Embodiment.from_dict({**robot.to_dict(), "kinematics": {"arms": arms, **box}})
