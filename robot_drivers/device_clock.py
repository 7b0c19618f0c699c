"""Stamps of a device's own clock -> the loop's clock.

The offset is the smallest `now - device` of the last readings: a delay on the way can only make it larger. The
window forgets, so that clocks that drift apart (50 ppm are 3 ms a minute) stay together.
"""

from __future__ import annotations

from collections import deque

WINDOW = 300  # readings: ten seconds at 30 Hz
JUMP_NS = 50_000_000  # a device that runs ahead by more has jumped
AFTER_JUMP = 5  # readings before a new offset is believed


class DeviceClock:
    """The offset between two clocks, measured on what arrives."""

    def __init__(self) -> None:
        self._offsets: deque[int] = deque(maxlen=WINDOW)
        self._last_ns: int | None = None
        self._untrusted = 0
        self.jumps = 0

    def stamp(self, device_ns: int, now_ns: int) -> int | None:
        """The loop's time of a device stamp that was read at `now_ns`, never later than that.

        `None` where the stamp cannot be believed: it does not increase, it leaps ahead, or the clock has jumped
        within the last few readings and its offset is being measured anew.
        """
        offset = now_ns - device_ns
        backwards = self._last_ns is not None and device_ns <= self._last_ns
        ahead = bool(self._offsets) and offset < min(self._offsets) - JUMP_NS
        self._last_ns = device_ns
        if backwards or ahead:
            self._offsets.clear()
            self._untrusted = AFTER_JUMP
            self.jumps += 1
        self._offsets.append(offset)
        if self._untrusted:
            self._untrusted -= 1
            return None
        return device_ns + min(self._offsets)
