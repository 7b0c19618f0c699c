"""ViperX-300 6DoF, the arm of ALOHA, straight over its Dynamixel bus and without ROS.

Names, motors, drive modes and limits: spec robot_ros2.md section 4. Six joints in position mode, two of them with a
shadow motor that obeys the first one's packets, and a gripper in current-based position mode, so that it grips with
a bounded force. The watchdogs of the motors themselves are the second line of defence: while the arm is commanded,
100 ms without any packet stop every motor where it is, torque on.

The driver never switches torque off: an arm that loses torque falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers import dynamixel as dxl
from robot_drivers.arm import ArmFacts
from robot_drivers.connection import read_connection
from robot_drivers.errors import PASSIVE, DriverError
from robot_drivers.types import ArmCommand, ArmState

HORN_M, ROD_M = 0.022, 0.036
"""The gripper's crank and connecting rod (Interbotix; section 4)."""
PROFILE_VELOCITY = 131  # of 0.229 rpm: pi rad/s, what the motors never exceed whatever they are told
WATCHDOG_TICKS = 5  # of 20 ms
WATCHDOG_NS = WATCHDOG_TICKS * 20_000_000
TORQUE_EVERY_NS = 100_000_000  # within this a motor that let go or restarted is seen, a shadow, too
FAR_RAD = 0.1  # farther than gravity pulls a joint from its set-point: holding means here, not there
SLOWEST_LATENCY_MS = 1


class Motor(NamedTuple):
    name: str
    id: int
    shadow: int | None = None
    reversed: bool = False  # bit 0 of the drive mode; a shadow's is clear


JOINTS = (
    Motor("waist", 1),
    Motor("shoulder", 2, shadow=3, reversed=True),
    Motor("elbow", 4, shadow=5, reversed=True),
    Motor("forearm_roll", 6),
    Motor("wrist_angle", 7, reversed=True),
    Motor("wrist_rotate", 8),
)
GRIPPER = Motor("gripper", 9)
STANDS = "standing where its motors hold it, torque on"
AS_BEFORE = "as it was: held where it has torque, loose where not"
SILENT = (
    "in an unknown state: each motor that has power stops by its own watchdog within 100 ms and holds; one without "
    "power falls. Support the arm, check power and cable, then open it anew"
)


@dataclass(frozen=True, kw_only=True)
class ViperXConnection:
    """`connection` of an arm with `driver: viperx`."""

    port: str  # serial port of the arm's adapter
    baud: int = 1_000_000
    gripper_unit: Literal["rad", "m"] = "rad"  # of the YAML's gripper ranges: motor angle, or finger from centre
    gripper_current_ma: float = 800.0  # the force of the grip

    def __post_init__(self) -> None:
        if not 0 < self.gripper_current_ma <= 3000:
            raise ValueError(f"gripper_current_ma must be above 0 and at most 3000, got {self.gripper_current_ma}")


def finger_from_motor(angle_rad: float) -> float:
    """Gripper motor (rad) -> finger's distance from the centre (m): r sin a + sqrt(l^2 - r^2 cos^2 a)."""
    return HORN_M * math.sin(angle_rad) + math.sqrt(ROD_M**2 - (HORN_M * math.cos(angle_rad)) ** 2)


def motor_from_finger(distance_m: float) -> float:
    """The inverse, for distances between l - r and l + r: pi/2 - acos((r^2 + x^2 - l^2) / (2 r x))."""
    if not ROD_M - HORN_M <= distance_m <= ROD_M + HORN_M:
        raise ValueError(f"a finger stands {ROD_M - HORN_M:.3f} to {ROD_M + HORN_M:.3f} m out, got {distance_m}")
    return math.pi / 2 - math.acos((HORN_M**2 + distance_m**2 - ROD_M**2) / (2 * HORN_M * distance_m))


class ViperX:
    """One arm. Positions: six joints in rad, then the gripper where the YAML has one."""

    def __init__(
        self, connection: ViperXConnection, has_gripper: bool, clock: Callable[[], int], passive: bool = False
    ) -> None:
        """Connect; the arm stays where it is, with torque. Raises `DriverError` where a motor is not as expected.

        `passive` leaves torque, modes and goals as they are.
        """
        self._passive = passive
        self._clock, self._finger = clock, has_gripper and connection.gripper_unit == "m"
        self._motors = (*JOINTS, GRIPPER) if has_gripper else JOINTS
        self._ids = [motor.id for motor in self._motors]
        self._everyone = [*self._ids, *(motor.shadow for motor in self._motors if motor.shadow)]
        self._names = {motor.id: motor.name for motor in self._motors}
        self._names |= {motor.shadow: f"{motor.name} (shadow)" for motor in self._motors if motor.shadow}
        self._bus = dxl.Bus(connection.port, connection.baud)
        self._watched = False  # whether the motors' watchdogs run
        self._packet_ns = clock()
        self._torque_ns = clock()  # when every motor, shadows too, was last asked for its torque
        self._silent_ns = 0  # a pause that was long enough for the watchdogs, until they have been asked
        try:
            self._start(connection)
        except dxl.BusError as error:
            self._bus.close()
            raise DriverError(f"{error}; {len(self._everyone)} motors were expected", SILENT) from error
        except BaseException:
            self._bus.close()
            raise

    def state(self) -> ArmState:
        """Measured positions (7,) or (6,), stamped before the motors were asked.

        Every `TORQUE_EVERY_NS` all motors are asked for their torque, too: shadows are not in the positions, and a
        motor that restarted answers as if nothing had been.
        """
        stamp_ns = self._clock()
        ticks = self._exchange(lambda: self._bus.read(self._ids, dxl.POSITION))
        torque: dict[int, int] = {}
        if not self._passive and stamp_ns - self._torque_ns >= TORQUE_EVERY_NS:
            torque = self._exchange(lambda: self._bus.read(self._everyone, dxl.TORQUE_ENABLE))
        if self._bus.alerts:
            raise self._hardware_fault(self._bus.alerts)
        if torque:
            self._require_torque(torque)
            self._torque_ns = stamp_ns
        positions = dxl.rad_from_ticks(np.array([ticks[i] for i in self._ids]))
        if self._finger:
            positions[-1] = finger_from_motor(positions[-1])
        return ArmState(positions, stamp_ns)

    def command(self, command: ArmCommand) -> None:
        """Write the goals, in the order and units of `state`. From now on the motors watch the bus."""
        positions = command.positions
        if positions.shape != (len(self._ids),) or not np.isfinite(positions).all():
            raise DriverError(f"{len(self._ids)} finite targets were expected, got {positions}", STANDS)
        if self._passive:
            raise DriverError(PASSIVE, AS_BEFORE)
        self._note_silence()
        if self._silent_ns:
            self._refuse_after_silence()
        if self._finger:
            positions = np.append(positions[:-1], motor_from_finger(positions[-1]))
        ticks = dxl.ticks_from_rad(positions)
        joints = len(JOINTS)
        ticks[:joints] = np.minimum(np.maximum(ticks[:joints], self._low), self._high)
        self._exchange(lambda: self._send(ticks))

    def hold(self) -> None:
        """Stay, torque on. Raises `DriverError` where a motor has no torque or does not answer.

        Joints near their goal keep it, so that repeated holding does not sag; one that is far from it stays where it
        is. The gripper keeps its goal, and with it the grip.
        """
        if self._passive:
            return
        self._require_torque(self._exchange(lambda: self._bus.read(self._everyone, dxl.TORQUE_ENABLE)))
        self._stay([motor.id for motor in JOINTS])

    def close(self) -> None:
        """Let go of the port. Torque stays on: to relax the arm, support it and switch its power off."""
        try:
            if not self._passive:
                self._exchange(self._unwatch)
        finally:
            self._bus.close()

    def facts(self) -> ArmFacts:
        """What the motors say of themselves, for `rdt robot check`."""

        def each(register: dxl.Register) -> dict[int, int]:
            return self._exchange(lambda: self._bus.read(self._everyone, register))

        models, firmware, volts, warmth = (
            each(register) for register in (dxl.MODEL, dxl.FIRMWARE, dxl.VOLTAGE, dxl.TEMPERATURE)
        )
        lines = [
            f"motor {i} {self._names[i]}: {dxl.MODELS.get(models[i], models[i])}, firmware {firmware[i]}, "
            f"{volts[i] / 10:.1f} V, {warmth[i]} C"
            for i in self._everyone
        ]
        limits = np.stack([dxl.rad_from_ticks(self._low), dxl.rad_from_ticks(self._high)], axis=1)
        return ArmFacts(tuple(lines + _latency_advice(self._bus.name)), limits)

    def _start(self, connection: ViperXConnection) -> None:
        bus, joints = self._bus, [motor.id for motor in JOINTS]
        bus.read(self._everyone, dxl.MODEL)  # everyone is there
        errors = bus.read(self._everyone, dxl.HARDWARE_ERROR)
        if any(errors.values()):
            raise self._hardware_fault(i for i, bits in errors.items() if bits)
        self._check_wiring()
        lowest, highest = bus.read(joints, dxl.MIN_POSITION), bus.read(joints, dxl.MAX_POSITION)
        self._low = np.array([lowest[i] for i in joints], dtype=np.int64)
        self._high = np.array([highest[i] for i in joints], dtype=np.int64)
        if self._passive:
            return
        torque = bus.read(self._everyone, dxl.TORQUE_ENABLE)
        self._stay([i for i in joints if torque[i]])  # whatever a killed program has left behind
        self._set_modes(torque)
        for i in self._everyone:
            bus.write(i, dxl.PROFILE_VELOCITY, PROFILE_VELOCITY)
        if GRIPPER.id in self._ids:
            bus.write(GRIPPER.id, dxl.GOAL_CURRENT, round(connection.gripper_current_ma / dxl.GOAL_CURRENT_MA))
        measured = bus.read(self._ids, dxl.POSITION)
        for motor in self._motors:
            if not torque[motor.id]:  # its goal may be anywhere: it must not leap there when it gets torque
                bus.write(motor.id, dxl.GOAL_POSITION, self._reachable(motor, measured[motor.id]))
        for i in self._everyone:
            if not torque[i]:
                bus.write(i, dxl.TORQUE_ENABLE, 1)

    def _stay(self, joints: list[int]) -> None:
        """Clear the watchdogs, and let joints that are far from their goals have it where they are."""
        far: dict[int, int] = {}
        if joints:
            measured = self._exchange(lambda: self._bus.read(joints, dxl.POSITION))
            goals = self._exchange(lambda: self._bus.read(joints, dxl.GOAL_POSITION))
            limits = {motor.id: (low, high) for motor, low, high in zip(JOINTS, self._low, self._high, strict=True)}
            far = {
                i: int(min(max(measured[i], limits[i][0]), limits[i][1]))
                for i in joints
                if abs(goals[i] - measured[i]) > FAR_RAD * dxl.TICKS_PER_TURN / (2 * math.pi)
            }
        self._exchange(self._unwatch)  # a motor that its watchdog stopped takes no goal before
        if far:
            self._exchange(lambda: self._bus.sync_write(dxl.GOAL_POSITION, far))
        dogs = self._exchange(lambda: self._bus.read(self._everyone, dxl.BUS_WATCHDOG))
        if any(dogs.values()):
            raise DriverError(f"the watchdogs of the motors read {dogs} after 0 was written", STANDS)

    def _check_wiring(self) -> None:
        """Backwards, by another profile, or a shadow that does not follow: the arm would fight itself or race."""
        modes = self._bus.read(self._everyone, dxl.DRIVE_MODE)
        for i, mode in modes.items():
            if mode & dxl.TIME_BASED:
                raise DriverError(
                    f"motor {i} {self._names[i]} has drive mode {mode}, expected bit 2 (time-based profile) 0: the "
                    f"limit of its speed would be a time of {PROFILE_VELOCITY} ms; set register 10 with Dynamixel "
                    "Wizard",
                    "untouched",
                )
        for motor in self._motors:
            expected = {motor.id: motor.reversed} | ({motor.shadow: False} if motor.shadow else {})
            for i, is_reversed in expected.items():
                if bool(modes[i] & 1) != is_reversed:
                    raise DriverError(
                        f"motor {i} {self._names[i]} has drive mode {modes[i]}, expected bit 0 {int(is_reversed)}: "
                        "the joint would run backwards; set register 10 with Dynamixel Wizard",
                        "untouched",
                    )
        shadows = {motor.shadow: motor.id for motor in self._motors if motor.shadow}
        for shadow, followed in self._bus.read(shadows, dxl.SECONDARY_ID).items():
            if followed != shadows[shadow]:
                raise DriverError(
                    f"motor {shadow} {self._names[shadow]} follows id {followed}, expected {shadows[shadow]}: the two "
                    "motors of the joint would fight; set register 12 with Dynamixel Wizard",
                    "untouched",
                )

    def _set_modes(self, torque: dict[int, int]) -> None:
        modes = self._bus.read(self._everyone, dxl.OPERATING_MODE)
        for i, mode in modes.items():
            wanted = dxl.CURRENT_BASED_POSITION_MODE if i == GRIPPER.id else dxl.POSITION_MODE
            if mode == wanted:
                continue
            if torque[i]:
                raise DriverError(
                    f"motor {i} {self._names[i]} has torque in operating mode {mode}, expected {wanted}, which can "
                    "change without torque only: support the arm, switch its power off and on, open it again",
                    STANDS,
                )
            self._bus.write(i, dxl.OPERATING_MODE, wanted)

    def _reachable(self, motor: Motor, tick: int) -> int:
        """The measured position, which the registers' limits must admit as a goal."""
        if motor is GRIPPER:
            return tick
        joint = JOINTS.index(motor)
        nearest = int(min(max(tick, self._low[joint]), self._high[joint]))
        if abs(nearest - tick) * 2 * math.pi / dxl.TICKS_PER_TURN > FAR_RAD:
            raise DriverError(
                f"the {motor.name} stands at tick {tick}, outside {self._low[joint]} to {self._high[joint]}: it would "
                "leap to the nearest limit; move the arm by hand into its range, then open it again",
                "without torque where it was so before",
            )
        return nearest

    def _send(self, ticks: np.ndarray) -> None:
        if not self._watched:
            self._watch()
        self._bus.sync_write(dxl.GOAL_POSITION, dict(zip(self._ids, ticks.tolist(), strict=True)))

    def _watch(self) -> None:
        """Start the watchdogs and see that they run: nobody acknowledges a sync write."""
        for _ in range(dxl.TRIES):
            self._bus.sync_write(dxl.BUS_WATCHDOG, dict.fromkeys(self._everyone, WATCHDOG_TICKS))
            dogs = self._bus.read(self._everyone, dxl.BUS_WATCHDOG)
            if set(dogs.values()) == {WATCHDOG_TICKS}:
                self._watched = True
                return
        raise dxl.BusError(f"the watchdogs of the motors read {dogs} after {WATCHDOG_TICKS} was written")

    def _unwatch(self) -> None:
        self._bus.sync_write(dxl.BUS_WATCHDOG, dict.fromkeys(self._everyone, 0))
        self._watched, self._silent_ns = False, 0

    def _note_silence(self) -> None:
        silent_ns = self._clock() - self._packet_ns
        if self._watched and silent_ns > 0.8 * WATCHDOG_NS:
            self._silent_ns = max(self._silent_ns, silent_ns)

    def _refuse_after_silence(self) -> None:
        dogs = self._exchange(lambda: self._bus.read(self._everyone, dxl.BUS_WATCHDOG))
        if dxl.WATCHDOG_TRIPPED in dogs.values():
            raise DriverError(
                f"the bus was silent for {self._silent_ns / 1e6:.0f} ms and the motors' watchdogs (100 ms) have "
                "stopped the arm: the loop was late; reset the guard to go on",
                STANDS,
            )
        self._silent_ns = 0

    def _require_torque(self, torque: dict[int, int]) -> None:
        off = [i for i, on in torque.items() if not on]
        if not off:
            return
        errors = self._exchange(lambda: self._bus.read(off, dxl.HARDWARE_ERROR))
        told = ", ".join(f"{i} {self._names[i]} ({dxl.hardware_errors(errors[i])})" for i in off)
        joints = ", ".join(self._names[i] for i in off)
        raise DriverError(
            f"torque is off at motor {told}",
            f"without torque at {joints} and falling there: support it, remove the cause, switch the power off and "
            "on, open it again",
        )

    def _hardware_fault(self, motors: Iterable[int]) -> DriverError:
        """What the motors that raised an alert say, and whether they have switched themselves off."""
        motors = sorted(motors)
        errors = self._exchange(lambda: self._bus.read(motors, dxl.HARDWARE_ERROR))
        torque = self._exchange(lambda: self._bus.read(motors, dxl.TORQUE_ENABLE))
        told = ", ".join(f"motor {i} {self._names[i]}: {dxl.hardware_errors(errors[i])}" for i in motors)
        off = [self._names[i] for i in motors if not torque[i]]
        now = f"without torque at {', '.join(off)} and falling there: support it" if off else STANDS
        return DriverError(f"hardware error of {told}; let it cool or free the joint, then cycle its power", now)

    def _exchange(self, action: Callable[[], dxl.R]) -> dxl.R:
        self._note_silence()
        try:
            result = action()
        except dxl.BusError as error:
            raise DriverError(f"{error}, {dxl.TRIES} times", SILENT) from error
        self._packet_ns = self._clock()
        return result


def _latency_advice(port: str) -> list[str]:
    """FTDI adapters collect bytes for 16 ms by default, which limits an arm to about 60 Hz."""
    timer = Path("/sys/class/tty") / Path(port).resolve().name / "device/latency_timer"
    if not timer.is_file():
        return []
    latency_ms = int(timer.read_text())
    if latency_ms <= SLOWEST_LATENCY_MS:
        return [f"adapter latency {latency_ms} ms"]
    return [f"adapter latency {latency_ms} ms limits the rate to about 60 Hz: `echo 1 | sudo tee {timer}`"]


def open_arm(robot: Embodiment, side: str, clock: Callable[[], int], passive: bool = False) -> ViperX:
    """The arm of one side of a robot YAML with `driver: viperx`."""
    arm = robot.arms[side]
    names = [joint.name for joint in arm.joints]
    if names != [motor.name for motor in JOINTS]:
        raise ValueError(f"a ViperX has joints {[motor.name for motor in JOINTS]}, arms.{side} names {names}")
    connection = read_connection(ViperXConnection, f"arms.{side}.connection", arm.connection)
    return ViperX(connection, arm.gripper is not None, clock, passive)
