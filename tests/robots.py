"""Robots for tests."""

from __future__ import annotations

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml


def bimanual(acceleration_limit: float = 15.0) -> Embodiment:
    """The embedded robot with the gentler acceleration of a real arm, in rad/s^2."""
    raw = read_yaml(find_config("robots", "sim_bimanual"))
    for arm in raw["arms"].values():
        for joint in arm["joints"]:
            joint["acceleration_limit"] = acceleration_limit
    return Embodiment.from_dict(raw)
