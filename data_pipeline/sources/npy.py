"""Files of `np.save`, dictionaries too, read as data: nothing in them is ever run.

An array of objects, and so a saved dictionary, is a pickle, and a pickle is a program: `np.load(allow_pickle=True)` on
a downloaded file does whatever its author wanted. Here a pickle may only name what numbers are made of (arrays, their
types, scalars, ordered dictionaries), and each of these names stands for a checked stand-in of this file; any other
name is an `UnsafeFileError`. Not even numpy sees the pickle's own types and buffers: what they claim is checked first.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"[<>=|]?(?:\?|b1|[iu][1248]|f[248])")
_TEXTS = re.compile(r"[<>=|]?[US]\d{1,6}")


class UnsafeFileError(ValueError):
    """A file asks for code that its data does not need."""


def read_npy(path: str | Path) -> Any:
    """What a .npy file holds: an array of numbers or texts, or the dictionaries and lists that were saved as an object.

    Raises `UnsafeFileError` for a pickle that names anything but data, `ValueError` with the file's name for a damaged
    file, `FileNotFoundError` for none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    content = io.BytesIO(path.read_bytes())
    try:
        version = np.lib.format.read_magic(content)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(content)
        if not dtype.hasobject:
            content.seek(0)
            return np.lib.format.read_array(content, allow_pickle=False)
        loaded = _data(_Reader(content).load(), iter(range(len(content.getvalue()))))
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"{path}: cannot be read, it is cut short or no .npy file ({error})") from None
    return loaded if shape else loaded[0]


class _Reader(pickle.Unpickler):
    """Finds the stand-ins below, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # numpy 2 and numpy 1 wrote the same things
        if (module, name) not in _STAND_INS:
            raise UnsafeFileError(f"asks for {module}.{name}, which is no data: the file is not read")
        return _STAND_INS[module, name]


class _Type:
    """Stands for numpy.dtype: numbers, texts or objects, by their code."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not (code in ("O", "O8") or _NUMBERS.fullmatch(code) or _TEXTS.fullmatch(code)):
            raise ValueError(f"an array of type {code!r}")
        self.is_object = code.startswith("O")
        self.numpy = np.dtype(np.void if self.is_object else code)

    def __setstate__(self, state: tuple) -> None:
        """(version, byte order, and what only structured types use)."""
        if state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray."""

    values: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, raw = state
        if dtype.is_object:
            self.values = list(raw)
        else:
            self.values = _numbers(raw, dtype).reshape(shape, order="F" if is_fortran else "C")


def _numbers(raw: bytes, dtype: _Type) -> np.ndarray:
    if dtype.is_object:
        raise ValueError("bytes where objects are")
    return np.frombuffer(raw, dtype.numpy)


def _reconstruct(subtype: object, shape: object, code: object) -> _Array:
    return _Array()  # filled by its state


def _scalar(dtype: _Type, raw: bytes) -> Any:
    return _numbers(raw, dtype)[0]


def _from_buffer(raw: bytes, dtype: _Type, shape: tuple, order: str) -> np.ndarray:
    return _numbers(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    """How old protocols write bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
}


def _data(value: Any, left: Iterator[int]) -> Any:
    """Stand-ins replaced by what they hold, as long as some are `left`.

    A list that is named again and again costs two bytes and may stand for gigabytes: no honest file has more entries
    than bytes.
    """
    if next(left, None) is None:
        raise ValueError("holds more entries than it has bytes")
    if isinstance(value, _Array):
        return _data(value.values, left)
    if isinstance(value, dict):
        return {_data(key, left): _data(entry, left) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_data(entry, left) for entry in value]
    if value is None or isinstance(value, (str, bytes, bool, int, float, np.ndarray, np.generic)):
        return value
    raise ValueError(f"holds a {type(value).__name__}")
