"""Dynamixel X motors on one serial bus, protocol 2.0: registers, units, reads and writes that are tried again.

Registers, units and the packet time-out: spec robot_ros2.md section 8. Every read is a sync read whose status
bytes are looked at, which the SDK's own group reader throws away: bit 7 of one is a motor's hardware alert.
This knows motors, not arms; for the arm see `viperx.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from robot_drivers.errors import DriverError

R = TypeVar("R")

TICKS_PER_TURN = 4096
CENTRE_TICK = 2048
GOAL_CURRENT_MA = 2.69  # one unit of the current registers
TRIES = 3  # a first reply on a busy machine may come after the SDK's time-out of 34 ms
QUIET_S, LONGEST_SETTLE_S = 0.005, 0.1
SETTLES = 2  # a question that is repeated may get two answers: the next one settles, too
ALERT = 0x80
MODELS = {1120: "XM540-W270", 1020: "XM430-W350", 1060: "XL430-W250", 1130: "XM540-W150", 1030: "XM430-W210"}
HARDWARE_ERRORS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload"}


class Register(NamedTuple):
    address: int
    size: int  # bytes, little-endian
    signed: bool = False


MODEL = Register(0, 2)
FIRMWARE = Register(6, 1)
DRIVE_MODE = Register(10, 1)  # bit 0: reversed; bit 2: the profile registers are times in ms
OPERATING_MODE = Register(11, 1)  # registers below 64 can be written with torque off only
SECONDARY_ID = Register(12, 1)
MAX_POSITION = Register(48, 4)
MIN_POSITION = Register(52, 4)
TORQUE_ENABLE = Register(64, 1)
HARDWARE_ERROR = Register(70, 1)
BUS_WATCHDOG = Register(98, 1)  # units of 20 ms; reads 255 once it has stopped the motor; writing 0 clears it
GOAL_CURRENT = Register(102, 2, signed=True)
PROFILE_VELOCITY = Register(112, 4)  # 0.229 rpm
GOAL_POSITION = Register(116, 4, signed=True)
POSITION = Register(132, 4, signed=True)
VOLTAGE = Register(144, 2)  # 0.1 V
TEMPERATURE = Register(146, 1)  # deg C

TIME_BASED = 0b100
POSITION_MODE = 3
CURRENT_BASED_POSITION_MODE = 5
WATCHDOG_TRIPPED = 255


def rad_from_ticks(ticks: np.ndarray) -> np.ndarray:
    """Ticks -> rad from the middle of the turn, (tick - 2048) 2 pi / 4096. Any shape."""
    return (np.asarray(ticks, dtype=np.float64) - CENTRE_TICK) * (2 * math.pi / TICKS_PER_TURN)


def ticks_from_rad(rad: np.ndarray) -> np.ndarray:
    """The inverse, int64, rounded to the nearest tick (0.0015 rad)."""
    return np.rint(np.asarray(rad) * (TICKS_PER_TURN / (2 * math.pi))).astype(np.int64) + CENTRE_TICK


class BusError(Exception):
    """A motor or the whole bus does not answer; the owner of the bus says what that means for the arm."""


class Bus:
    """One serial port with its motors. Not for two threads at once."""

    def __init__(self, port: str, baud: int) -> None:
        self._port, self._packets, self._sdk = _open(port, baud)
        self.name = port
        self._unsettled = 0  # coming exchanges before which late replies must pass
        self.alerts: set[int] = set()  # motors whose last status byte told of a hardware error

    def read(self, motors: Iterable[int], register: Register) -> dict[int, int]:
        """One register of several motors, in one exchange. Raises `BusError`, naming who was silent."""
        motors = list(motors)
        return self._again(lambda: self._read_once(motors, register))

    def write(self, motor: int, register: Register, value: int) -> None:
        """One register of one motor, which acknowledges. Raises `BusError`."""

        def once() -> None:
            data = _bytes_of(value, register)
            result, error = self._packets.writeTxRx(self._port, motor, register.address, register.size, data)
            self._judge(result, motor)
            self._note(motor, error)
            if error & ~ALERT:
                raise BusError(
                    f"motor {motor} refused {value} for register {register.address}: "
                    f"{self._packets.getRxPacketError(error)}"
                )

        self._again(once)

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """One register of several motors in one packet. Nobody acknowledges. Raises `BusError`."""
        packed = [byte for motor, value in values.items() for byte in (motor, *_bytes_of(value, register))]
        result = self._guarded(
            lambda: self._packets.syncWriteTxOnly(self._port, register.address, register.size, packed, len(packed))
        )
        if result != self._sdk.COMM_SUCCESS:
            raise BusError(f"the packet could not be sent on {self.name}: {self._packets.getTxRxResult(result)}")

    def close(self) -> None:
        self._port.closePort()

    def _read_once(self, motors: list[int], register: Register) -> dict[int, int]:
        address, size = register.address, register.size
        self._judge(self._packets.syncReadTx(self._port, address, size, motors, len(motors), False), motors[0])
        values = {}
        for motor in motors:
            values[motor] = int.from_bytes(self._reply(motor, size), "little", signed=register.signed)
        return values

    def _reply(self, motor: int, size: int) -> bytes:
        """The data of one status packet. One of another size answers an earlier question."""
        while True:
            packet, result = self._packets.rxPacket(self._port, False)
            self._judge(result, motor)
            if packet[4] == motor:
                break
        sent = packet[5] + 256 * packet[6] - 4  # the length counts instruction, error and checksum, too
        if sent != size:
            raise BusError(f"motor {motor} on {self.name} sent {sent} bytes, expected {size}")
        self._note(motor, packet[8])
        return bytes(packet[9 : 9 + size])

    def _again(self, once: Callable[[], R]) -> R:
        for _ in range(TRIES - 1):
            try:
                return self._guarded(once)
            except BusError:  # noqa: PERF203
                continue
        return self._guarded(once)

    def _guarded(self, action: Callable[[], R]) -> R:
        """What comes up when a cable is pulled (OSError, termios.error, TypeError, by system), as a `BusError`."""
        unsettled, self._unsettled = self._unsettled, SETTLES
        try:
            if unsettled:
                self._settle()
            result = action()
        except BusError:
            raise
        except Exception as error:
            raise BusError(f"the port {self.name} is gone: {error}") from error
        finally:
            self._port.is_using = False  # the SDK leaves its mark where Ctrl-C falls into an exchange
        self._unsettled = max(unsettled - 1, 0)
        return result

    def _settle(self) -> None:
        """Let late replies pass after an exchange that broke off: the next would take them for its own."""
        end = time.monotonic() + LONGEST_SETTLE_S
        quiet_from = time.monotonic()
        while (now := time.monotonic()) - quiet_from < QUIET_S and now < end:
            if self._port.getBytesAvailable():
                self._port.clearPort()
                quiet_from = now
            time.sleep(0.001)

    def _judge(self, result: int, motor: int) -> None:
        if result != self._sdk.COMM_SUCCESS:
            raise BusError(f"motor {motor} on {self.name}: {self._packets.getTxRxResult(result)} ({result})")

    def _note(self, motor: int, error: int) -> None:
        if error & ALERT:
            self.alerts.add(motor)
        else:
            self.alerts.discard(motor)


def hardware_errors(bits: int) -> str:
    """The bits of register 70 in words."""
    return ", ".join(name for bit, name in HARDWARE_ERRORS.items() if bits >> bit & 1) or "no error"


def _bytes_of(value: int, register: Register) -> list[int]:
    return list(int(value).to_bytes(register.size, "little", signed=register.signed))


def _open(port: str, baud: int) -> tuple[Any, Any, Any]:
    try:
        import dynamixel_sdk
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Dynamixel motors need dynamixel-sdk: pip install 'rdt-stack[viperx]'") from error
    handler = dynamixel_sdk.PortHandler(port)
    try:
        if not handler.setBaudRate(baud):
            raise DriverError(f"{baud} baud is no rate of a serial port: 1000000 is usual", "untouched")
        handler.ser.exclusive = True  # two programs on one bus would garble each other's packets
    except OSError as error:
        raise DriverError(
            f"the serial port {port} cannot be opened ({error}): is the adapter plugged in, is another program "
            "using it, may this user (group dialout)",
            "untouched",
        ) from error
    return handler, dynamixel_sdk.PacketHandler(2.0), dynamixel_sdk
