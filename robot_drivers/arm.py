"""What a driver of one arm must be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from robot_drivers.types import ArmCommand, ArmState


class Arm(Protocol):
    """One arm. No method waits for the motion to end; any of them may raise what its bus raises."""

    def state(self) -> ArmState:
        """The newest measurement; its stamp tells how old it is."""
        ...

    def command(self, command: ArmCommand) -> None:
        """Move towards these positions, replacing the command before. Commanded through a guard only."""
        ...

    def hold(self) -> None:
        """Stay where the arm is, torque on: the answer to everything unexpected."""
        ...

    def close(self) -> None:
        """Let go of the bus. The arm has been told to hold before."""
        ...


@dataclass(frozen=True)
class ArmFacts:
    """What an arm says of itself, for a person."""

    lines: tuple[str, ...]  # firmware, voltages, temperatures, advice
    limits: np.ndarray | None = None  # float64 (joints, 2), low and high in rad, as the arm itself enforces them


@runtime_checkable
class TalkativeArm(Protocol):
    """An arm that can say more than where it is. Optional: `rdt robot check` asks."""

    def facts(self) -> ArmFacts: ...
