"""TFRecord files and the `tf.train.Example` messages in them, read without TensorFlow.

    file      records, one behind the other
    record    u64 length, u32 masked crc32c of these 8 bytes, payload, u32 masked crc32c of the payload
    Example   1: Features;  Features  1: map entries (1: name, 2: Feature)
    Feature   one of 1: BytesList, 2: FloatList, 3: Int64List, each with `1: repeated value`, numbers packed

A damaged payload costs its own record. A damaged length costs the rest of the file: nothing says where the next
record begins. Masking adds a constant so that a crc of a crc is not zero (the TFRecord format's own rule).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c  # type: ignore[import-untyped]
import numpy as np

from data_pipeline.atomic import atomic_path
from data_pipeline.sources.raw import Fault

Values = np.ndarray | list[bytes] | None
"""Of one feature: float32 (n,), int64 (n,), byte strings, or None where the feature is empty."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_VARINT, _LENGTH_DELIMITED, _FIXED32 = 0, 2, 5


def masked_crc32c(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: str | Path) -> Iterator[bytes | Fault]:
    """Payloads in file order, one at a time in memory; a damaged record comes as a `Fault` in its place."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        number, at = 0, 0
        while at < size:
            where = f"{path.name}, record {number}"
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                yield Fault("truncated", where, f"its header has {len(header)} of {_HEADER.size} bytes: the file ends")
                return
            length, crc = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != crc:
                yield Fault("bad_crc", where, f"the length does not fit its crc32c: not read on after byte {at}")
                return
            at += _HEADER.size + length + _CRC.size
            if at > size:
                yield Fault("truncated", where, f"{at - size} of its {length} + {_CRC.size} bytes are missing")
                return
            payload = file.read(length)
            (crc,) = _CRC.unpack(file.read(_CRC.size))
            if masked_crc32c(payload) == crc:
                yield payload
            else:
                yield Fault("bad_crc", where, f"its {length} bytes do not fit their crc32c: this record is left out")
            number += 1


def write_records(path: str | Path, payloads: Iterable[bytes]) -> int:
    """A file of these records, whole or not at all; returns their number."""
    number = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for number, payload in enumerate(payloads, start=1):  # noqa: B007
            file.write(packed_record(payload))
    return number


def packed_record(payload: bytes) -> bytes:
    """One record as it stands in a file."""
    header = struct.pack("<Q", len(payload))
    return header + _CRC.pack(masked_crc32c(header)) + payload + _CRC.pack(masked_crc32c(payload))


def parse_example(payload: bytes) -> dict[str, Values]:
    """A serialized `tf.train.Example` as name -> values. Raises `ValueError` for anything else."""
    features: dict[str, Values] = {}
    try:
        for start, end in _messages(payload, 0, len(payload), 1):
            for entry_start, entry_end in _messages(payload, start, end, 1):
                name, values = "", None
                for field, at, stop in _fields(payload, entry_start, entry_end):
                    if field == 1:
                        name = payload[at:stop].decode()
                    elif field == 2:
                        values = _feature(payload, at, stop)
                features[name] = values
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"no tf.train.Example: {error}") from None
    return features


def _feature(data: bytes, start: int, end: int) -> Values:
    values: Values = None
    for field, at, stop in _fields(data, start, end):
        if field == 1:
            values = _byte_strings(data, at, stop)
        elif field == 2:
            values = _floats(data, at, stop)
        elif field == 3:
            values = _integers(data, at, stop)
    return values if values is not None and len(values) else None


def _byte_strings(data: bytes, at: int, end: int) -> list[bytes]:
    strings = []
    while at < end:
        if data[at] != 0x0A:
            raise ValueError(f"no tf.train.Example: tag {data[at]:#x} in a list of byte strings")
        length = data[at + 1]
        at += 2
        if length >= 0x80:
            length, at = _varint(data, at - 1)
        strings.append(data[at : at + length])
        at += length
    if at != end:
        raise ValueError("no tf.train.Example: a byte string runs over the end of its list")
    return strings


def _floats(data: bytes, start: int, end: int) -> np.ndarray:
    if end > start and data[start] == 0x0D:  # not packed: a tag before each number
        if (end - start) % 5:
            raise ValueError("no tf.train.Example: a list of floats is cut")
        rows = np.frombuffer(data, np.uint8, end - start, start).reshape(-1, 5)
        return rows[:, 1:].copy().view("<f4")[:, 0]
    chunks = []
    for at, stop in _messages(data, start, end, 1):
        if (stop - at) % 4:
            raise ValueError("no tf.train.Example: a list of floats is cut")
        chunks.append(np.frombuffer(data, "<f4", (stop - at) // 4, at))
    return chunks[0] if len(chunks) == 1 else np.concatenate([*chunks, np.empty(0, "<f4")])


def _integers(data: bytes, start: int, end: int) -> np.ndarray:
    if end > start and data[start] == 0x08:  # not packed: a tag before each number
        values, at = [], start
        while at < end:
            value, at = _varint(data, at + 1)
            values.append(value)
        return np.array(values, dtype=np.uint64).view(np.int64)
    chunks = [_packed_varints(np.frombuffer(data, np.uint8, b - a, a)) for a, b in _messages(data, start, end, 1)]
    return chunks[0] if len(chunks) == 1 else np.concatenate([*chunks, np.empty(0, np.int64)])


def _packed_varints(data: np.ndarray) -> np.ndarray:
    """Base-128 numbers, low group first, the high bit set on all bytes of a number but its last -> int64."""
    is_last = data < 0x80
    if is_last.all():
        return data.astype(np.int64)
    ends = np.flatnonzero(is_last)
    if len(ends) == 0 or ends[-1] != len(data) - 1:
        raise ValueError("no tf.train.Example: a list of integers is cut")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 9:
        raise ValueError("no tf.train.Example: an integer of more than 64 bits")
    groups = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(groups, starts).view(np.int64)


def _messages(data: bytes, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Bounds of the length-delimited fields of one number."""
    return ((at, stop) for field, at, stop in _fields(data, start, end) if field == number)


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the length-delimited fields of a message; other kinds are stepped over."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("no tf.train.Example: a field runs over the end of its message")
            yield tag >> 3, at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (1, _FIXED32):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"no tf.train.Example: wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """One base-128 number and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no tf.train.Example: an integer of more than 64 bits")
