"""One arm of the embedded robot behind the protocol of real drivers."""

from __future__ import annotations

from robot_drivers.sim.robot import SimRobot
from robot_drivers.types import ArmCommand, ArmState


class SimArm:
    """An `Arm` on a shared `SimRobot`, whose owner steps and closes it."""

    def __init__(self, robot: SimRobot, side: str) -> None:
        self._robot = robot
        self._side = side

    def state(self) -> ArmState:
        return self._robot.state(self._side)

    def command(self, command: ArmCommand) -> None:
        self._robot.command(self._side, command)

    def hold(self) -> None:
        """The simulated motors keep their last targets by themselves."""

    def close(self) -> None:
        """Nothing of its own to let go of."""
