"""Robots for tests."""

from __future__ import annotations

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from robot_drivers.types import ArmCommand, ArmState


class ObedientArm:
    """Is where it was told to be, and remembers what it was told; the test sets its clock."""

    def __init__(self, positions) -> None:
        self.positions, self.now_ns = np.array(positions, dtype=np.float64), 0
        self.told: list[ArmCommand] = []

    def state(self) -> ArmState:
        return ArmState(self.positions.copy(), self.now_ns)

    def command(self, command: ArmCommand) -> None:
        self.told.append(command)
        self.positions = command.positions

    def hold(self) -> None:
        """It stays anyway."""

    def close(self) -> None:
        """It holds nothing open."""


def bimanual(acceleration_limit: float = 15.0) -> Embodiment:
    """The embedded robot with the gentler acceleration of a real arm, in rad/s^2."""
    raw = read_yaml(find_config("robots", "sim_bimanual"))
    for arm in raw["arms"].values():
        for joint in arm["joints"]:
            joint["acceleration_limit"] = acceleration_limit
    return Embodiment.from_dict(raw)
