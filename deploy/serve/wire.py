"""msgpack with numpy arrays, as the openpi policy protocol writes it (spec interop.md section 8.3).

    ndarray        {b"__ndarray__": true, b"data": bin, b"dtype": str, b"shape": [int]}     C order
    numpy scalar   {b"__npgeneric__": true, b"data": number | bool, b"dtype": str}

What comes off the wire is data of somebody else: types, byte counts and sizes are checked before an array is made of
it, and nothing is ever unpickled. `numpy.float64`, which is a Python float, travels as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MAX_BYTES = 64 * 2**20
"""Largest message in bytes: six raw pictures of 1080p and room to spare."""

MAX_ENTRIES = 65_536
"""Most entries of one list or map: numbers in bulk travel as arrays."""

REFUSED_KINDS = "OVc"
"""numpy's codes of objects, structures and complex numbers, which have no place on this wire."""

Encode = Callable[[Any], Any]
Decode = Callable[[dict[Any, Any]], Any]


class WireError(ValueError):
    """A message that is not what the protocol says."""


def pack(message: Any) -> bytes:
    """One message of plain types, arrays and numpy scalars as bytes. Raises `WireError` for anything else."""
    return pack_with(_encode, message)


def unpack(data: bytes, max_bytes: int = MAX_BYTES) -> Any:
    """The inverse of `pack`; arrays share the memory of `data` and are read-only.

    Raises `WireError` for what is no msgpack, is larger than `max_bytes`, or holds an array that cannot be one.
    """
    return unpack_with(_decode, data, max_bytes)


def pack_with(encode: Encode, message: Any) -> bytes:
    """`pack` for another protocol's way to write an array: `encode` makes plain types of one."""
    import msgpack

    try:
        return msgpack.packb(message, default=encode)
    except WireError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a message cannot be written as msgpack: {error}") from None


def unpack_with(decode: Decode, data: bytes, max_bytes: int = MAX_BYTES) -> Any:
    """`unpack` for another protocol's arrays: `decode` is shown every map and returns what it stands for."""
    import msgpack

    if len(data) > max_bytes:
        raise WireError(f"a message has {len(data)} bytes, and {max_bytes} is the largest")
    try:
        return msgpack.unpackb(
            data, object_hook=decode, ext_hook=_no_extension, max_array_len=MAX_ENTRIES, max_map_len=MAX_ENTRIES
        )
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"a message of {len(data)} bytes is not msgpack: {error or type(error).__name__}") from None


def as_map(message: Any) -> dict[str, Any]:
    """A message that has to be a map with text keys. Raises `WireError` for another."""
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise WireError(f"a message must be a map with text keys, got {describe(message)}")
    return message


def array_of(dtype: Any, shape: Any, data: Any) -> np.ndarray:
    """The array that these bytes say, read-only and on their memory. Raises `WireError` unless all three agree."""
    kind = dtype_of(dtype)
    sizes_fit = isinstance(shape, Sequence) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes_fit or isinstance(shape, (str, bytes)):
        raise WireError(f"an array's shape must be a list of whole numbers, got {shape!r:.100}")
    if not isinstance(data, bytes):
        raise WireError(f"an array's data must be bytes, got {type(data).__name__}")
    expected = math.prod(shape) * kind.itemsize
    if len(data) != expected:
        raise WireError(f"an array of {kind.str} {tuple(shape)!s:.100} has {expected} bytes, got {len(data)}")
    try:
        return np.ndarray(buffer=data, dtype=kind, shape=tuple(shape))
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"no array of shape {tuple(shape)!s:.100}: {error}") from None


def dtype_of(text: Any) -> np.dtype:
    """A dtype by numpy's short name, `<f4`. Raises `WireError` for an unknown or refused one."""
    try:
        dtype = np.dtype(text) if isinstance(text, str) else None
    except (TypeError, ValueError, SyntaxError, OverflowError):
        dtype = None
    if dtype is None or dtype.itemsize == 0:
        raise WireError(f"a dtype must be a numpy name such as '<f4' or '|u1', got {text!r:.100}")
    if dtype.kind in REFUSED_KINDS:
        raise WireError(f"dtype {text!r:.100} is refused: only numbers, truth values and text travel")
    return dtype


def describe(value: Any) -> str:
    """What came, in a few words, for messages: `|u1 (3, 224, 224)`, `a map of state, images`, `str`."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str} {value.shape}"
    if isinstance(value, dict):
        return f"a map of {', '.join(map(str, value)) or 'nothing'}"[:200]
    return type(value).__name__


def _encode(value: Any) -> dict[bytes, Any]:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in REFUSED_KINDS:
        raise WireError(f"dtype {value.dtype} is refused: only numbers, truth values and text travel")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic) and isinstance(number := value.item(), (bool, int, float)):
        return {b"__npgeneric__": True, b"data": number, b"dtype": value.dtype.str}
    raise WireError(f"a {type(value).__name__} cannot travel: use plain types and numpy arrays")


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return array_of(value.get(b"dtype"), value.get(b"shape"), value.get(b"data"))
    if b"__npgeneric__" in value:
        dtype, number = dtype_of(value.get(b"dtype")), value.get(b"data")
        if dtype.kind not in "biuf" or not isinstance(number, (bool, int, float)):
            raise WireError(f"a numpy scalar must be a number or a truth value, got {dtype.str} {describe(number)}")
        try:
            return dtype.type(number)
        except (ValueError, OverflowError) as error:
            raise WireError(f"a numpy scalar of {dtype.str} cannot hold {number!r}: {error}") from None
    return value


def _no_extension(code: int, data: bytes) -> Any:
    raise WireError(f"msgpack extension {code} is not part of the protocol")
