"""A bank of Dynamixel X servos on a pseudo terminal, protocol 2.0, in a process of its own.

Written from the protocol's description (spec robot_ros2.md section 8), without the SDK, so that the real SDK talks to
something that knows nothing of it. A servo jumps to its goal at once when it has torque. Time passes for its bus
watchdog only when a test says so.

Run as a program it prints the terminal's name and then obeys one JSON object a line (`Bank.obey`), answering each
with a line; tests use `ServoBank`.
"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import tty
from collections.abc import Iterator

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
HEADER = b"\xff\xff\xfd\x00"
TORQUE, HARDWARE_ERROR, WATCHDOG, GOAL, POSITION = 64, 70, 98, 116, 132
SHADOW_ID, MAX_POSITION, MIN_POSITION, MODE = 12, 48, 52, 11
ACCESS_ERROR, RANGE_ERROR, INSTRUCTION_ERROR, ALERT = 7, 4, 2, 0x80
VIPERX = {  # id: (model, drive mode, shadowed id or 255, lowest and highest tick)
    1: (1120, 0, 255, 0, 4095),
    2: (1120, 1, 255, 841, 2867),
    3: (1120, 0, 2, 841, 2867),
    4: (1120, 1, 255, 898, 3094),
    5: (1120, 0, 4, 898, 3094),
    6: (1120, 0, 255, 0, 4095),
    7: (1120, 1, 255, 830, 3504),
    8: (1020, 0, 255, 0, 4095),
    9: (1020, 0, 255, 0, 4095),
}


def crc16(data: bytes) -> int:
    """Polynomial 0x8005, start 0, not reflected."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005) & 0xFFFF if crc & 0x8000 else crc << 1
    return crc


def status(servo: int, error: int, params: bytes) -> bytes:
    body = (bytes([0x55, error]) + params).replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
    packet = HEADER + bytes([servo]) + (len(body) + 2).to_bytes(2, "little") + body
    return packet + crc16(packet).to_bytes(2, "little")


class Servo:
    def __init__(self, servo: int, model: int, drive: int, shadowed: int, low: int, high: int) -> None:
        self.id, self.table = servo, bytearray(148)
        start = {0: (model, 2), 6: (47, 1), 7: (servo, 1), 10: (drive, 1), MODE: (3, 1), SHADOW_ID: (shadowed, 1)}
        start |= {MAX_POSITION: (high, 4), MIN_POSITION: (low, 4), 144: (121, 2), 146: (31, 1)}
        start |= {POSITION: (2048, 4), GOAL: (2048, 4)}
        for address, (value, size) in start.items():
            self.set(address, value, size)

    def get(self, address: int, size: int) -> int:
        return int.from_bytes(self.table[address : address + size], "little", signed=size == 4)

    def set(self, address: int, value: int, size: int) -> None:
        self.table[address : address + size] = value.to_bytes(size, "little", signed=value < 0)

    def write(self, address: int, data: bytes) -> int:
        """Returns the error number of the status packet."""
        if address < 64 and self.table[TORQUE]:
            return ACCESS_ERROR
        if address == WATCHDOG and data[0] and self.table[WATCHDOG] == 255:
            return RANGE_ERROR
        if address == GOAL:
            goal = int.from_bytes(data, "little", signed=True)
            if self.table[WATCHDOG] == 255:
                return RANGE_ERROR
            limited = self.table[MODE] == 3
            if limited and not self.get(MIN_POSITION, 4) <= goal <= self.get(MAX_POSITION, 4):
                return RANGE_ERROR
        self.table[address : address + len(data)] = data
        if self.table[TORQUE] and address in (GOAL, TORQUE):
            self.table[POSITION : POSITION + 4] = self.table[GOAL : GOAL + 4]
        return 0

    @property
    def alert(self) -> int:
        return ALERT if self.table[HARDWARE_ERROR] else 0


class Bank:
    """All servos, and the faults that a test has ordered."""

    def __init__(self) -> None:
        self.servos = {servo: Servo(servo, *row) for servo, row in VIPERX.items()}
        self.silent: set[int] = set()
        self.swallow = 0  # replies to come that get lost
        self.corrupt = 0  # replies to come with a wrong checksum
        self.lose = 0  # sync writes to come that no servo hears
        self.late = 0  # replies to come that arrive only with those to the next packet
        self.held_back: list[bytes] = []

    def obey(self, order: dict) -> object:
        if "silent" in order:
            self.silent = set(order["silent"])
        self.swallow = order.get("swallow", self.swallow)
        self.corrupt = order.get("corrupt", self.corrupt)
        self.lose = order.get("lose", self.lose)
        self.late = order.get("late", self.late)
        for servo, address, size, value in order.get("set", []):
            self.servos[servo].set(address, value, size)
        for servo in self.servos.values():
            if 0 < servo.table[WATCHDOG] < 255 and servo.table[WATCHDOG] * 20 < order.get("quiet_ms", 0):
                servo.table[WATCHDOG] = 255
        if order.get("power_cycle"):
            for servo in self.servos.values():
                servo.table[64:132] = bytes(68)  # memory without battery; the position stays
        return [self.servos[servo].get(address, size) for servo, address, size in order.get("get", [])]

    def answer(self, packet: bytes) -> Iterator[bytes]:
        if crc16(packet[:-2]) != int.from_bytes(packet[-2:], "little"):
            return
        target, body = packet[4], packet[7:-2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
        instruction, params = body[0], body[1:]
        yield from self.held_back
        self.held_back = []
        if instruction == SYNC_READ:
            address, size = int.from_bytes(params[:2], "little"), int.from_bytes(params[2:4], "little")
            for servo in params[4:]:
                yield from self.reply(servo, lambda s, a=address, n=size: (0, bytes(s.table[a : a + n])))
        elif instruction == SYNC_WRITE:
            if self.lose:
                self.lose -= 1
                return
            address, size = int.from_bytes(params[:2], "little"), int.from_bytes(params[2:4], "little")
            for at in range(4, len(params), size + 1):
                self.apply(params[at], address, params[at + 1 : at + 1 + size])
        elif instruction == PING:
            yield from self.reply(target, lambda s: (0, bytes(s.table[0:2] + s.table[6:7])))
        elif instruction == READ:
            address, size = int.from_bytes(params[:2], "little"), int.from_bytes(params[2:4], "little")
            yield from self.reply(target, lambda s: (0, bytes(s.table[address : address + size])))
        elif instruction == WRITE:
            error = self.apply(target, int.from_bytes(params[:2], "little"), params[2:])
            yield from self.reply(target, lambda s: (error, b""))
        else:
            yield from self.reply(target, lambda s: (INSTRUCTION_ERROR, b""))

    def apply(self, target: int, address: int, data: bytes) -> int:
        """Write to a servo and to what shadows it. Shadows obey without a reply."""
        error = 0
        for servo in self.servos.values():
            if servo.id in self.silent:
                continue
            if servo.id == target:
                error = servo.write(address, data)
            elif servo.table[SHADOW_ID] == target:
                servo.write(address, data)
        return error

    def reply(self, servo: int, made) -> Iterator[bytes]:
        if servo in self.silent or servo not in self.servos:
            return
        error, params = made(self.servos[servo])
        packet = status(servo, error | self.servos[servo].alert, params)
        if self.swallow:
            self.swallow -= 1
            return
        if self.late:
            self.late -= 1
            self.held_back.append(packet)
            return
        if self.corrupt:
            self.corrupt -= 1
            packet = packet[:-1] + bytes([packet[-1] ^ 0x5A])
        yield packet


def packets(buffer: bytearray) -> Iterator[bytes]:
    """Whole packets at the front of the buffer, taken out of it."""
    while (start := buffer.find(HEADER)) >= 0:
        del buffer[:start]
        if len(buffer) < 7 or len(buffer) < (end := 7 + int.from_bytes(buffer[5:7], "little")):
            return
        yield bytes(buffer[:end])
        del buffer[:end]


def serve() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    print(os.ttyname(slave), flush=True)
    bank, buffer = Bank(), bytearray()

    def obey_the_bus() -> None:
        buffer.extend(os.read(master, 4096))
        for packet in packets(buffer):
            for answer in bank.answer(packet):
                os.write(master, answer)

    while True:
        ready, _, _ = select.select([master, sys.stdin], [], [])
        if master in ready:
            obey_the_bus()
        elif line := sys.stdin.readline():
            while select.select([master], [], [], 0.01)[0]:  # a packet sent before the order may still be on its way
                obey_the_bus()
            print(json.dumps(bank.obey(json.loads(line))), flush=True)
        else:
            return


class ServoBank:
    """The emulator from a test's side: `port` to open, `order` to look and to break things."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = self._process.stdout.readline().strip()

    def order(self, **order) -> list[int]:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def get(self, servos, address: int, size: int) -> list[int]:
        return self.order(get=[(servo, address, size) for servo in servos])

    def unplug(self) -> None:
        """The adapter is pulled out: the terminal is gone."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


if __name__ == "__main__":
    serve()
