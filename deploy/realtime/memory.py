"""Memory that processes share: rings of records, one writer each, any number of readers, nobody waits.

A record carries its number before and after it is written (a seqlock) and a checksum, so a reader never takes a half
of one for a whole, on any processor. Readers that fall behind lose the oldest records and are told how many. The
process that makes a ring removes it; the operating system's tracker does where that process was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import google_crc32c
import numpy as np

_HEAD = np.dtype([("number", np.int64), ("checksum", np.int64)])
_WRITING = -1
_TRIES = 3


@dataclass(frozen=True)
class RingSpec:
    """All that another process needs to open a ring; it is small and can be pickled."""

    name: str
    dtype: np.dtype
    length: int


class Record(NamedTuple):
    """A record and its place in the order of all that were written, from 0."""

    number: int
    value: np.ndarray  # a copy, shape () of the ring's dtype


class Ring:
    """The newest `length` records. Make it with `create`, open it elsewhere with `Ring(spec)`."""

    def __init__(self, spec: RingSpec, *, memory: SharedMemory | None = None) -> None:
        """Open a ring that another process made. Raises `FileNotFoundError` when it is gone."""
        self.spec = spec
        self._owned = memory is not None
        self._memory = memory or SharedMemory(spec.name)
        slot = np.dtype([("head", _HEAD), ("value", spec.dtype)], align=True)
        self._slots = np.ndarray(spec.length, slot, self._memory.buf)
        self._numbers, self._checksums = self._slots["head"]["number"], self._slots["head"]["checksum"]
        size, stride = spec.dtype.itemsize, slot.itemsize
        assert slot.fields is not None, "a slot has a head and a value"
        self._bytes = np.ndarray((spec.length, size), np.uint8, self._memory.buf, slot.fields["value"][1], (stride, 1))
        self._count = 0  # records that this writer has written, or this reader has seen

    @classmethod
    def create(cls, dtype: np.dtype, length: int = 2) -> Ring:
        """Make a ring of so many records. Raises `OSError` where /dev/shm has no room."""
        dtype = np.dtype(dtype)
        slot = np.dtype([("head", _HEAD), ("value", dtype)], align=True)
        memory = SharedMemory(create=True, size=slot.itemsize * length)
        ring = cls(RingSpec(memory.name, dtype, length), memory=memory)
        ring._numbers[:] = _WRITING
        return ring

    def empty(self) -> np.ndarray:
        """A record to fill in and `write`, all zeros."""
        return np.zeros((), self.spec.dtype)

    def write(self, value: np.ndarray) -> int:
        """Add a record and return its number. One process only."""
        number = self._count
        place, content = number % self.spec.length, value.tobytes()  # taken once: a thread may be changing the value
        self._numbers[place] = _WRITING
        self._bytes[place] = np.frombuffer(content, np.uint8)
        self._checksums[place] = _checksum(content, number)
        self._numbers[place] = number
        self._count = number + 1
        return number

    def newest(self) -> Record | None:
        """The last record that is whole, or the one before it, seen or not; None before the first one."""
        for _ in range(_TRIES):
            last = int(self._numbers.max())
            if last < 0:
                return None
            for number in range(last, max(last - 2, -1), -1):
                record = self._read(number)
                if record is not None:
                    return record
        return None  # a writer that is that fast writes again at once

    def new(self) -> Iterator[Record]:
        """The records that this reader has not seen, oldest first. Gaps in their numbers were lost."""
        last = int(self._numbers.max())
        for number in range(max(self._count, last + 1 - self.spec.length), last + 1):
            record = self._read(number)
            if record is not None:
                yield record
        self._count = max(self._count, last + 1)

    def close(self) -> None:
        """Let go of the memory; its maker removes it."""
        del self._slots, self._numbers, self._checksums, self._bytes
        self._memory.close()
        if self._owned:
            self._memory.unlink()

    def _read(self, number: int) -> Record | None:
        """The record of a number; None where it is being written, or is another one by now."""
        place = number % self.spec.length
        if self._numbers[place] != number:
            return None
        value = np.empty((), self.spec.dtype)
        content = value.reshape(1).view(np.uint8)
        content[:] = self._bytes[place]
        whole = self._numbers[place] == number and self._checksums[place] == _checksum(content.tobytes(), number)
        return Record(number, value) if whole else None


def _checksum(content: bytes, number: int) -> int:
    return google_crc32c.value(content) ^ (number & 0xFFFFFFFF)
