"""AgileX Piper over CAN, through the vendor's SDK.

Frames, units and the enable loop: spec robot_ros2.md sections 4 and 8. The SDK counts in 0.001 deg and 0.001 mm; rad
are converted exactly (the vendor's ROS node is 0.05 % off). It tells the time of a joint message by whichever of
three frames came last and only logs what it cannot send, so this driver notes the arrival of every frame itself: a
state is as old as the oldest frame in it.

The driver never disables a motor, and never sends "resume" (0x150, 2), after which the arm loses power and falls.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.arm import ArmFacts
from robot_drivers.connection import read_connection
from robot_drivers.errors import PASSIVE, DriverError
from robot_drivers.types import ArmCommand, ArmState

NUM_JOINTS = 6
UNITS_PER_RAD = 180_000 / math.pi  # 0.001 deg
UNITS_PER_M = 1_000_000  # 0.001 mm
JOINT_FRAMES = (0x2A5, 0x2A6, 0x2A7)
GRIPPER_FRAME = 0x2A8
LIMITS_FRAME = 0x473
MOTOR_FRAMES = tuple(range(0x261, 0x267))
BITRATE = 1_000_000
ENABLE_PERIOD_S, ENABLE_TIMEOUT_S = 0.01, 5.0
LOOK_AGAIN_S = 0.02  # four frames' time for a reader that was paused with everything else
LOST_NS = 500_000_000  # joint frames come every 5 ms; the guard faults at the same age
FAR_RAD = 0.1  # farther from its target than this a joint is held where it is, not where it was going
CAN_MODE, MOVE_J, POSITION_VELOCITY = 1, 1, 0
QUICK_STOP = 1
GRIPPER_ENABLE = 1
STATUS = {
    1: "emergency stop",
    2: "no solution",
    3: "singularity",
    4: "target outside the joint limits",
    5: "no communication with a joint",
    6: "a brake is not released",
    7: "collision",
    8: "too fast while being taught",
    9: "abnormal joint state",
    10: "another fault",
    11: "teaching: recording",
    12: "teaching: playing",
    13: "teaching: paused",
    14: "controller too hot",
    15: "release resistor too hot",
}
MOTOR_FAULTS = {
    "voltage_too_low": "voltage too low",
    "motor_overheating": "motor too hot",
    "driver_overcurrent": "too much current",
    "driver_overheating": "driver too hot",
    "collision_status": "collision",
    "driver_error_status": "driver error",
    "stall_status": "stalled",
}
HOLDS = "holding its last target, motors enabled"
AS_BEFORE = "as it was: held where its motors are enabled, loose where not"
UNHEARD = "unheard: it has been told to stop quickly (0x150); support it, check power and CAN cable, open it anew"


@dataclass(frozen=True, kw_only=True)
class PiperConnection:
    """`connection` of an arm with `driver: piper`."""

    can: str  # name of the CAN link
    interface: Literal["socketcan", "slcan", "virtual"] = "socketcan"
    speed_percent: int = 50  # of what the arm's own controller may do
    gripper_effort_nm: float = 1.0  # the force of the grip

    def __post_init__(self) -> None:
        if not 1 <= self.speed_percent <= 100:
            raise ValueError(f"speed_percent must be from 1 to 100, got {self.speed_percent}")
        if not 0 < self.gripper_effort_nm <= 5:
            raise ValueError(f"gripper_effort_nm must be above 0 and at most 5, got {self.gripper_effort_nm}")


def units_from_rad(rad: np.ndarray) -> np.ndarray:
    """rad -> the SDK's 0.001 deg, int64, rounded to the nearest (1.7e-5 rad)."""
    return np.rint(np.asarray(rad) * UNITS_PER_RAD).astype(np.int64)


def rad_from_units(units: np.ndarray) -> np.ndarray:
    """The inverse."""
    return np.asarray(units, dtype=np.float64) / UNITS_PER_RAD


class Piper:
    """One arm. Positions: six joints in rad, then the gripper's stroke in m where the YAML has one."""

    def __init__(
        self,
        connection: PiperConnection,
        has_gripper: bool,
        clock: Callable[[], int],
        sleep: Callable[[float], None] = time.sleep,
        passive: bool = False,
    ) -> None:
        """Connect and enable; the arm stays where it is. Raises `DriverError` where it does not answer.

        `passive` enables nothing and sends no target.
        """
        self._passive = passive
        self._connection, self._has_gripper, self._clock, self._sleep = connection, has_gripper, clock, sleep
        self._arrived: dict[int, int] = {}  # frame -> when it came last
        self._needed = (*JOINT_FRAMES, GRIPPER_FRAME) if has_gripper else JOINT_FRAMES
        self._limits: dict[int, tuple[int, int]] = {}  # motor -> low and high in 0.1 deg
        self._target: np.ndarray | None = None
        self._sdk = _open(connection)
        try:
            self._listen()
            self._wait_for_feedback()
            if passive:
                return
            self._enable()
            self._send(self._measured())  # stay: whatever target was left in the controller
        except BaseException:
            self._sdk.DisconnectPort()
            raise

    def state(self) -> ArmState:
        """Measured positions (7,) or (6,), as old as the oldest of their frames."""
        if self._passive:
            self._require_bus()
        else:
            self._require_health()
        stamp_ns = min(self._arrived[frame] for frame in self._needed)  # before the positions: never too young
        return ArmState(self._measured(), stamp_ns)

    def command(self, command: ArmCommand) -> None:
        """Send the targets, in the order and units of `state`."""
        positions = command.positions
        if positions.shape != (NUM_JOINTS + self._has_gripper,) or not np.isfinite(positions).all():
            expected = NUM_JOINTS + self._has_gripper
            raise DriverError(f"{expected} finite targets were expected, got {positions}", HOLDS)
        if self._passive:
            raise DriverError(PASSIVE, AS_BEFORE)
        self._require_bus()
        self._send(positions)

    def hold(self) -> None:
        """Stay, motors enabled. Without feedback the arm is told to stop quickly, and `DriverError` is raised.

        Joints keep their target unless they are far from it; the gripper keeps its own, and with it the grip.
        """
        if self._passive:
            return
        self._require_bus()
        measured = self._measured()
        target = measured if self._target is None else self._target.copy()
        far = np.abs(target - measured)[:NUM_JOINTS] > FAR_RAD
        target[:NUM_JOINTS][far] = measured[:NUM_JOINTS][far]
        self._send(target)
        self._require_health()

    def close(self) -> None:
        """Let go of the CAN link. The motors stay enabled: to relax the arm, support it and switch its power off."""
        self._sdk.DisconnectPort()

    def facts(self) -> ArmFacts:
        """What the arm says of itself, for `rdt robot check`."""
        firmware = self._sdk.GetPiperFirmwareVersion()
        lines = [f"firmware {firmware if isinstance(firmware, str) else 'unknown'}"]
        motors = self._sdk.GetArmLowSpdInfoMsgs()
        for i in range(1, NUM_JOINTS + 1):
            motor = getattr(motors, f"motor_{i}")
            lines.append(f"motor {i}: {motor.vol / 10:.1f} V, {motor.motor_temp} C")
        if len(self._limits) < NUM_JOINTS:
            return ArmFacts((*lines, "its joint limits were asked for and not told"))
        tenths = np.array([self._limits[i] for i in range(1, NUM_JOINTS + 1)])
        return ArmFacts(tuple(lines), np.radians(tenths / 10))

    def _listen(self) -> None:
        """Note when each frame arrives, and the joint limits, which SDK 0.6 gives as the last motor's for all."""
        can = self._sdk.GetCanBus()
        take_apart = can.callback_function

        def noting(message: Any) -> None:
            take_apart(message)
            if message.arbitration_id == LIMITS_FRAME:
                motor, high, low = struct.unpack_from(">Bhh", message.data)
                self._limits[motor] = (low, high)
            self._arrived[message.arbitration_id] = self._clock()

        can.callback_function = noting
        self._sdk.ConnectPort(can_init=False, piper_init=True, start_thread=True)

    def _wait_for_feedback(self) -> None:
        needed = {*self._needed, *MOTOR_FRAMES}
        for attempt in range(round(ENABLE_TIMEOUT_S / ENABLE_PERIOD_S)):
            if needed <= set(self._arrived):
                return
            if attempt == 150:  # a reader of an earlier connection, still alive when we came, has ended since
                self._sdk.DisconnectPort()
                self._sdk.ConnectPort(can_init=True, piper_init=True, start_thread=True)
            self._sleep(ENABLE_PERIOD_S)
        missing = ", ".join(f"{frame:#x}" for frame in sorted(needed - set(self._arrived)))
        raise DriverError(
            f"the arm on {self._connection.can!r} did not send frames {missing} within {ENABLE_TIMEOUT_S:g} s: is it "
            f"powered, is the link up at {BITRATE} bit/s, is it the right one"
            + ("; an arm without gripper needs no `gripper` in its YAML" if GRIPPER_FRAME in needed else ""),
            "untouched",
        )

    def _enable(self) -> None:
        for _ in range(round(ENABLE_TIMEOUT_S / ENABLE_PERIOD_S)):
            if all(self._sdk.GetArmEnableStatus()):
                return
            self._sdk.EnableArm(7)
            self._sleep(ENABLE_PERIOD_S)
        enabled = self._sdk.GetArmEnableStatus()
        off = ", ".join(str(i + 1) for i, on in enumerate(enabled) if not on)
        raise DriverError(
            f"motors {off} were not enabled within {ENABLE_TIMEOUT_S:g} s: is the emergency stop pressed, does the "
            "arm's light show a fault",
            f"without torque at joints {off}",
        )

    def _measured(self) -> np.ndarray:
        joints = self._sdk.GetArmJointMsgs().joint_state
        units = [getattr(joints, f"joint_{i}") for i in range(1, NUM_JOINTS + 1)]
        positions = rad_from_units(np.array(units))
        if self._has_gripper:
            stroke = self._sdk.GetArmGripperMsgs().gripper_state.grippers_angle / UNITS_PER_M
            positions = np.append(positions, stroke)
        return positions

    def _send(self, positions: np.ndarray) -> None:
        joints = units_from_rad(positions[:NUM_JOINTS]).tolist()
        self._sdk.MotionCtrl_2(CAN_MODE, MOVE_J, self._connection.speed_percent, POSITION_VELOCITY)
        self._sdk.JointCtrl(*joints)
        if self._has_gripper:
            effort = round(self._connection.gripper_effort_nm * 1000)
            self._sdk.GripperCtrl(round(positions[-1] * UNITS_PER_M), effort, GRIPPER_ENABLE, 0)
        self._target = np.array(positions)

    def _require_bus(self) -> None:
        """Feedback comes; else stop blindly and say so.

        Only power off and on undoes the stop, so the arm is looked at twice: after a pause of the whole program its
        frames wait to be read, and nothing is wrong with it.
        """
        oldest, age_ns = self._oldest()
        if self._sdk.isOk() and age_ns <= LOST_NS:
            return
        self._sleep(LOOK_AGAIN_S)
        oldest, age_ns = self._oldest()
        if self._sdk.isOk() and age_ns <= LOST_NS:
            return
        if not self._passive:
            self._sdk.EmergencyStop(QUICK_STOP)
        raise DriverError(
            f"no frame {oldest:#x} from the arm on {self._connection.can!r} for {age_ns / 1e6:.0f} ms, expected one "
            "every 5 ms",
            AS_BEFORE if self._passive else UNHEARD,
        )

    def _oldest(self) -> tuple[int, int]:
        """The needed frame that came longest ago, and its age in ns."""
        oldest = min(self._needed, key=lambda frame: self._arrived[frame])
        return oldest, self._clock() - self._arrived[oldest]

    def _require_health(self) -> None:
        self._require_bus()
        off = [str(i + 1) for i, on in enumerate(self._sdk.GetArmEnableStatus()) if not on]
        faults = self._motor_faults()
        told = f" ({'; '.join(faults)})" if faults else ""
        if off:
            joints = ", ".join(off)
            raise DriverError(
                f"motors {joints} are no longer enabled{told}",
                f"without torque at joints {joints} and falling there: support it, remove the cause, open it again",
            )
        status = self._sdk.GetArmStatus().arm_status.arm_status
        if int(status) or faults:
            words = STATUS.get(int(status), f"status {int(status)}") if int(status) else "a motor fault"
            raise DriverError(f"the arm reports {words}{told}: remove the cause, then power it off and on", HOLDS)

    def _motor_faults(self) -> list[str]:
        motors = self._sdk.GetArmLowSpdInfoMsgs()
        found = []
        for i in range(1, NUM_JOINTS + 1):
            status = getattr(motors, f"motor_{i}").foc_status
            found += [f"motor {i}: {words}" for name, words in MOTOR_FAULTS.items() if getattr(status, name)]
        return found


def _open(connection: PiperConnection) -> Any:
    try:
        from piper_sdk import C_PiperInterface_V2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a Piper needs piper_sdk: pip install 'rdt-stack[piper]'") from error
    name = connection.can
    sdk = C_PiperInterface_V2(name, judge_flag=False, can_auto_init=False)
    if sdk.get_connect_status():  # the SDK keeps one interface a link
        raise DriverError(f"the CAN link {name!r} is already open in this program", "untouched")
    try:
        sdk.CreateCanBus(name, connection.interface, BITRATE, connection.interface == "socketcan")
    except ConnectionError as error:
        raise DriverError(
            f"the CAN link {name!r} is not there, not up or not at {BITRATE} bit/s: "
            f"`sudo ip link set {name} up type can bitrate {BITRATE}`",
            "untouched",
        ) from error
    return sdk


def open_arm(robot: Embodiment, side: str, clock: Callable[[], int], passive: bool = False) -> Piper:
    """The arm of one side of a robot YAML with `driver: piper`."""
    arm = robot.arms[side]
    if len(arm.joints) != NUM_JOINTS:
        raise ValueError(f"a Piper has {NUM_JOINTS} joints, arms.{side} names {[joint.name for joint in arm.joints]}")
    connection = read_connection(PiperConnection, f"arms.{side}.connection", arm.connection)
    return Piper(connection, arm.gripper is not None, clock, passive=passive)
