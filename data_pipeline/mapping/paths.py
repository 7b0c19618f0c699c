"""Where a rule reads: `PATH[SLICE]`, `PATH` with `take`, or `const:` numbers (spec data.md section 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.schema.registry import unknown_name
from data_pipeline.sources.raw import RawEpisode

CONST = "const:"
_BRACKETS = re.compile(r"(?P<path>.+?)\s*\[(?P<inside>[^\[\]]*)\]")


class EpisodeError(ValueError):
    """An episode that a mapping cannot use; becomes a `Fault` of this kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Selection:
    """Some numbers of one field, at every step."""

    path: str  # as the source spells it; "const:..." for constants
    indices: slice | tuple[int, ...] | None = None  # None: all of them
    constants: tuple[float, ...] | None = None

    @classmethod
    def parse(cls, text: Any, take: Any = None, defs: Mapping[str, str] | None = None) -> Selection:
        """Raises `ValueError` for what is neither a path with an optional slice nor constants."""
        if not isinstance(text, str) or not text:
            raise ValueError(f"from takes PATH, PATH[SLICE] or const:NUMBER, got {text!r}")
        if text.startswith(CONST):
            if take is not None:
                raise ValueError("const: has nothing to take from")
            return cls(text, constants=_constants(text))
        path, inside = split_brackets(text)
        if take is None:
            return cls(expand(path, defs), None if inside is None else parse_slice(inside))
        if inside is not None:
            raise ValueError(f"{text!r} has a slice and take as well: use one of them")
        if not isinstance(take, list) or not take or not all(type(index) is int for index in take):
            raise ValueError(f"take is a list of indices, got {take!r}")
        return cls(expand(path, defs), tuple(take))

    def width(self, available: int | None) -> int | None:
        """How many numbers this is, of `available` a step; None where that is not known. Raises `ValueError`."""
        if self.constants is not None:
            return len(self.constants)
        if self.indices is None:
            return available
        if available is None:
            return _width_of_unknown(self.indices)
        if isinstance(self.indices, tuple):
            outside = [i for i in self.indices if not -available <= i < available]
            if outside:
                raise ValueError(f"{self} reads index {outside[0]} of a field of {available} numbers")
            return len(self.indices)
        for bound in (self.indices.start, self.indices.stop):
            if bound is not None and not -available <= bound <= available:  # Python would shorten it in silence
                raise ValueError(f"{self} leaves its field of {available} numbers")
        chosen = len(range(available)[self.indices])
        if chosen == 0:
            raise ValueError(f"{self} is empty in a field of {available} numbers")
        return chosen

    def read(self, raw: RawEpisode) -> np.ndarray:
        """(steps, width) float64. Raises `EpisodeError` for a field that is missing, no numbers, or too narrow."""
        if self.constants is not None:
            return np.tile(np.array(self.constants), (raw.num_steps, 1))
        values = numbers(raw, self.path)
        try:
            self.width(values.shape[1])
        except ValueError as error:
            raise EpisodeError("wrong_width", str(error)) from None
        if self.indices is None:
            return values
        return values[:, list(self.indices) if isinstance(self.indices, tuple) else self.indices]

    def one(self, i: int) -> str:
        """The name of number `i` of the selection: `PATH[index]`."""
        if self.constants is not None:
            return f"{CONST}{self.constants[i]:g}"
        if isinstance(self.indices, tuple):
            return f"{self.path}[{self.indices[i]}]"
        start, step = (0, 1) if self.indices is None else (self.indices.start or 0, self.indices.step or 1)
        return f"{self.path}[{start + i * step}]"

    def __str__(self) -> str:
        if isinstance(self.indices, tuple):
            return (
                f"{self.path} take {list(self.indices)}" if len(self.indices) > 1 else f"{self.path}{[*self.indices]}"
            )
        if self.indices is None:
            return self.path
        step = "" if self.indices.step is None else f":{self.indices.step}"
        bounds = ["" if b is None else str(b) for b in (self.indices.start, self.indices.stop)]
        return f"{self.path}[{':'.join(bounds)}{step}]"


def numbers(raw: RawEpisode, path: str) -> np.ndarray:
    """A field as (steps, n) float64, its axes in reading order. Raises `EpisodeError`."""
    if path not in raw.fields:
        raise EpisodeError("missing_field", unknown_name("field", path, raw.fields, f" in {raw.name}"))
    values = np.asarray(raw.fields[path])
    if values.dtype.kind not in "fiub":
        raise EpisodeError("wrong_width", f"field {path!r} must hold numbers, got {values.dtype}")
    return values.reshape(len(values), -1).astype(np.float64)


def split_brackets(text: str) -> tuple[str, str | None]:
    """`PATH[INSIDE]` -> path and what stands in the brackets, None without."""
    match = _BRACKETS.fullmatch(text.strip())
    return (match["path"], match["inside"]) if match else (text.strip(), None)


def expand(path: str, defs: Mapping[str, str] | None) -> str:
    """The path with a short name of `defs` in its first segment written out."""
    head, slash, tail = path.partition("/")
    return f"{defs[head]}{slash}{tail}" if defs and head in defs else path


def parse_slice(text: str) -> slice | tuple[int, ...]:
    """Python's slice, or one index as a tuple of it."""
    parts = [part.strip() for part in text.split(":")]
    try:
        whole = [int(part) if part else None for part in parts]
    except ValueError:
        whole = []
    if not 1 <= len(whole) <= 3 or (len(whole) == 1 and whole[0] is None) or (len(whole) == 3 and whole[2] == 0):
        raise ValueError(f"[{text}] is not a slice: write [3], [0:7] or [0:14:2]")
    return (whole[0],) if len(whole) == 1 and whole[0] is not None else slice(*whole)


def _constants(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text[len(CONST) :].split(","))
    except ValueError:
        raise ValueError(f"{text!r} must hold numbers: const:0 or const:0,0,1") from None


def _width_of_unknown(indices: slice | tuple[int, ...]) -> int | None:
    if isinstance(indices, tuple):
        return len(indices)
    if indices.stop is None or indices.stop < 0 or (indices.start or 0) < 0 or (indices.step or 1) < 0:
        return None
    return len(range(indices.start or 0, indices.stop, indices.step or 1))
