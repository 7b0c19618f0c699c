"""What can go wrong near a robot. Every message ends with what the arm is doing now."""

from __future__ import annotations


class RobotError(Exception):
    """Base of all errors of a driver or a guard."""

    def __init__(self, what: str, arm_now: str) -> None:
        super().__init__(f"{what}. The arm is now {arm_now}.")
        self.what = what
        self.arm_now = arm_now


class DriverError(RobotError):
    """A driver raised, or its bus is gone."""


class CommandError(RobotError):
    """A command does not fit the arm: wrong length or wrong kind."""


class ArmFaultError(RobotError):
    """A guard has latched a fault: the arm holds and takes no command until `reset()`."""


PASSIVE = "an arm that was opened to look only (passive) takes no command"
NOT_CONCERNED = "not concerned: a camera failed"
