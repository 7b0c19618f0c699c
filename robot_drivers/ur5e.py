"""UR5e over ur-rtde: joint servoing at the loop's rate, in rad.

The two RTDE connections are handed in, so that tests can stand in for a controller (there is no emulator in the
wheel). The controller judges safety by itself: a protective stop is its answer to a collision, and this driver's part
is to say so. Its watchdog is the second line of defence: once the arm is commanded, a bus silent for 100 ms
ends the control script, and the arm stands.

A hand on the flange is not driven here: leave `gripper` out of the YAML.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.arm import ArmFacts
from robot_drivers.connection import read_connection
from robot_drivers.errors import PASSIVE, DriverError
from robot_drivers.types import ArmCommand, ArmState

NUM_JOINTS = 6
WATCHDOG_HZ = 10.0
RUNNING = 7
ROBOT_MODES = {
    -1: "no controller",
    0: "disconnected",
    1: "confirm safety",
    2: "booting",
    3: "power off",
    4: "power on",
    5: "idle, brakes on",
    6: "backdrive",
    7: "running",
    8: "updating firmware",
}
SAFETY_MODES = {
    1: "normal",
    2: "reduced",
    3: "protective stop",
    4: "recovery",
    5: "safeguard stop",
    6: "system emergency stop",
    7: "robot emergency stop",
    8: "violation",
    9: "fault",
    10: "joint id to be validated",
    11: "undefined",
}
SAFE_TO_MOVE = (1, 2)
STANDS = "standing, held by its controller"


@dataclass(frozen=True, kw_only=True)
class UR5eConnection:
    """`connection` of an arm with `driver: ur5e`."""

    host: str  # address of the controller
    servo_hz: float = 50.0  # how often the loop commands
    lookahead_s: float = 0.1  # smoothing of the controller
    gain: float = 300.0  # stiffness with which it follows

    def __post_init__(self) -> None:
        if not 10 < self.servo_hz <= 500:
            raise ValueError(f"servo_hz must be above 10, the watchdog's rate, and at most 500, got {self.servo_hz}")
        if not 0.03 <= self.lookahead_s <= 0.2:
            raise ValueError(f"lookahead_s must be from 0.03 to 0.2, got {self.lookahead_s}")
        if not 100 <= self.gain <= 2000:
            raise ValueError(f"gain must be from 100 to 2000, got {self.gain}")


class UR5e:
    """One arm. Positions: six joints in rad, base to wrist 3."""

    def __init__(self, connection: UR5eConnection, control: Any, receive: Any, clock: Callable[[], int]) -> None:
        """`control` and `receive` are an RTDEControlInterface and an RTDEReceiveInterface. Nothing moves.

        Without `control` (`None`) the arm is passive: freedrive at the pendant goes on.
        """
        self._connection, self._control, self._receive, self._clock = connection, control, receive, clock
        self._watched = False
        self._controller_s: float | None = None  # the controller's time of the newest sample
        self._stamp_ns = clock()
        self._require_health()

    def state(self) -> ArmState:
        """Measured joints (6,). The stamp is when this sample was first seen: one that repeats grows old."""
        self._require_health()
        if self._watched:
            self._control.kickWatchdog()
        controller_s = self._receive.getTimestamp()
        if controller_s != self._controller_s:
            self._controller_s, self._stamp_ns = controller_s, self._clock()
        return ArmState(np.array(self._receive.getActualQ(), dtype=np.float64), self._stamp_ns)

    def command(self, command: ArmCommand) -> None:
        """Servo to these joints within one period of the loop."""
        positions = command.positions
        if positions.shape != (NUM_JOINTS,) or not np.isfinite(positions).all():
            raise DriverError(f"{NUM_JOINTS} finite targets in rad were expected, got {positions}", STANDS)
        if self._control is None:
            raise DriverError(PASSIVE, STANDS)
        self._require_health()
        if not self._control.isProgramRunning():
            raise DriverError(
                "the control script has ended: the loop was late (watchdog), or the pendant took over; reset the guard",
                STANDS,
            )
        if not self._watched:
            self._watched = bool(self._control.setWatchdog(WATCHDOG_HZ))
            if not self._watched:
                raise DriverError("the controller refused the watchdog, and without it nothing is commanded", STANDS)
        self._control.kickWatchdog()
        settings = self._connection
        arguments = (
            0.0,
            0.0,
            1 / settings.servo_hz,
            settings.lookahead_s,
            settings.gain,
        )  # speed, acceleration: unused
        if not self._control.servoJ(positions.tolist(), *arguments):
            raise DriverError("the controller refused servoJ", STANDS)

    def hold(self) -> None:
        """Stop servoing: the controller brakes and holds. An ended script is started again, which moves nothing."""
        if self._control is None:
            return
        self._require_health()
        if not self._control.isProgramRunning():
            self._watched = False
            if not self._control.reuploadScript():
                raise DriverError("the control script could not be started again: is remote control on", STANDS)
        elif not self._control.servoStop():
            raise DriverError("the controller refused servoStop", "finishing its last target, at most one period")

    def close(self) -> None:
        """End the control script and let go of both connections; the controller holds the arm."""
        try:
            if self._control is not None:
                self._control.stopScript()
        finally:
            if self._control is not None:
                self._control.disconnect()
            self._receive.disconnect()

    def facts(self) -> ArmFacts:
        """What the controller says, for `rdt robot check`."""
        mode = self._receive.getRobotMode()
        volts, scaling = self._receive.getActualRobotVoltage(), self._receive.getSpeedScaling()
        warmth = ", ".join(f"{celsius:.0f}" for celsius in self._receive.getJointTemperatures())
        lines = [
            f"robot mode {ROBOT_MODES.get(mode, mode)}, {volts:.1f} V, joints {warmth} C",
            f"speed slider {100 * scaling:.0f} %" + ("" if scaling > 0.99 else ": the arm will lag behind its targets"),
        ]
        return ArmFacts(tuple(lines))

    def _require_health(self) -> None:
        if not self._receive.isConnected():
            raise DriverError(
                f"the connection to {self._connection.host} is lost: check network and controller, open it anew",
                "in an unknown state: its controller ends the motion within 100 ms and holds, if it has power",
            )
        if self._receive.isEmergencyStopped():
            raise DriverError("the emergency stop is pressed: release it, power the arm on, open it again", STANDS)
        if self._receive.isProtectiveStopped():
            raise DriverError(
                "protective stop, most often a collision: clear the way, unlock it at the pendant (after 5 s), open "
                "it again",
                STANDS,
            )
        safety = self._receive.getSafetyMode()
        if safety not in SAFE_TO_MOVE:
            raise DriverError(
                f"safety mode is {SAFETY_MODES.get(safety, safety)}, expected normal or reduced: close the gate or "
                "clear the scanner's field, see the pendant, then reset the guard",
                STANDS,
            )
        mode = self._receive.getRobotMode()
        if mode != RUNNING:
            words = ROBOT_MODES.get(mode, mode)
            raise DriverError(f"robot mode is {words}, expected running: power it on and release the brakes", STANDS)


def open_arm(robot: Embodiment, side: str, clock: Callable[[], int], passive: bool = False) -> UR5e:
    """The arm of one side of a robot YAML with `driver: ur5e`."""
    arm = robot.arms[side]
    if len(arm.joints) != NUM_JOINTS or arm.gripper is not None:
        raise ValueError(f"a UR5e has {NUM_JOINTS} joints and no gripper of its own, arms.{side} names {arm.names}")
    connection = read_connection(UR5eConnection, f"arms.{side}.connection", arm.connection)
    try:
        from rtde_control import RTDEControlInterface
        from rtde_receive import RTDEReceiveInterface
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a UR5e needs ur-rtde: pip install 'rdt-stack[ur]'") from error
    with ExitStack() as until_open:
        try:
            receive = RTDEReceiveInterface(connection.host)
            until_open.callback(receive.disconnect)
            control = None if passive else RTDEControlInterface(connection.host)
            if control is not None:
                until_open.callback(control.disconnect)
                until_open.callback(control.stopScript)
        except RuntimeError as error:
            raise DriverError(
                f"the controller at {connection.host} does not answer ({error}): is it on, in remote control, and in "
                "this network",
                "untouched",
            ) from error
        opened = UR5e(connection, control, receive, clock)
        until_open.pop_all()
    return opened
