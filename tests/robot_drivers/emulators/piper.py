"""A Piper arm on a python-can virtual bus: frames of the table in spec robot_ros2.md section 8.

Its thread answers the real SDK in the same process. The arm jumps to its target at once when it is enabled.
"""

from __future__ import annotations

import struct
import threading

import can

SERVED_S = 0.005
LIMITS = [(1500, -1500), (1800, 0), (0, -1700), (1000, -1000), (700, -700), (1200, -1200)]  # high, low in 0.1 deg


class PiperArm:
    """Frames in `lost` are not sent; `status`, `disabled` and `faults` are what the arm then reports."""

    def __init__(self, channel: str) -> None:
        self.joints, self.gripper = [0, 0, 0, 0, 0, 0], 0  # 0.001 deg, 0.001 mm
        self.enabled, self.asks_before_enabling = False, 3
        self.status, self.disabled, self.faults = 0, set(), {}
        self.lost: set[int] = set()
        self.silent = False
        self.heard: dict[int, bytes] = {}
        self._bus = can.Bus(channel, interface="virtual")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._bus.shutdown()

    def _serve(self) -> None:
        while not self._stop.is_set():
            message = self._bus.recv(SERVED_S)
            while message is not None:
                self._obey(message.arbitration_id, bytes(message.data))
                message = self._bus.recv(0)
            if not self.silent:
                self._report()

    def _obey(self, frame: int, data: bytes) -> None:
        self.heard[frame] = data
        if frame == 0x471 and data[:2] == bytes([7, 2]):
            self.asks_before_enabling -= 1
            self.enabled = self.enabled or self.asks_before_enabling <= 0
        elif 0x155 <= frame <= 0x157 and self.enabled:
            first = 2 * (frame - 0x155)
            self.joints[first : first + 2] = struct.unpack(">ii", data)
        elif frame == 0x159 and data[6] == 1:
            self.gripper = struct.unpack(">i", data[:4])[0]
        elif frame == 0x472 and data[1] == 1:
            high, low = LIMITS[data[0] - 1]
            self._send(0x473, struct.pack(">BhhHB", data[0], high, low, 3000, 0))
        elif frame == 0x4AF:
            self._send(0x4AF, b"S-V1.5-2")

    def _report(self) -> None:
        self._send(0x2A1, struct.pack(">BBBBBBH", 1, self.status, 1, 0, 0, 0, 0))
        for i in range(3):
            self._send(0x2A5 + i, struct.pack(">ii", *self.joints[2 * i : 2 * i + 2]))
        self._send(0x2A8, struct.pack(">ihBB", self.gripper, 0, 0x40, 0))
        for motor in range(1, 7):
            on = self.enabled and motor not in self.disabled
            bits = (0x40 if on else 0) | self.faults.get(motor, 0)
            self._send(0x260 + motor, struct.pack(">HhbBH", 241, 35, 32, bits, 100))

    def _send(self, frame: int, data: bytes) -> None:
        if frame not in self.lost:
            self._bus.send(can.Message(arbitration_id=frame, data=data, is_extended_id=False))
