"""Filters: `field op value at first|last|any|all`, `len >= n`. A closed form; nothing is evaluated as a program.

episode_metadata/file_path matches success        a regular expression, found anywhere
observation/episode_success > 0.5 at first        of a step field: at one step, at any, at all (first by default)
language == "Unfold a wrinkled towel."            the cleaned instruction
name matches "^train/"                            the episode's name in its source
len >= 100                                        number of steps
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.mapping.language import lookup_metadata
from data_pipeline.mapping.paths import EpisodeError, Selection
from data_pipeline.schema.registry import unknown_name
from data_pipeline.sources.raw import FieldSpec, RawEpisode

_FORM = re.compile(r"\s*(?P<field>\S+)\s+(?P<op>\S+)\s+(?P<value>\"[^\"]*\"|'[^']*'|.+?)(?:\s+at\s+(?P<at>\w+))?\s*")
_ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_OPS = (*_ORDERED, "matches")
_AT: dict[str, Callable[[list[bool]], bool]] = {
    "first": lambda found: found[0],
    "last": lambda found: found[-1],
    "any": any,
    "all": all,
}
_SPECIAL = ("len", "language", "name")
_MISSING = object()


@dataclass(frozen=True)
class Condition:
    """One filter of a mapping; an episode stays when it holds."""

    text: str
    field: Selection
    op: str
    value: float | bool | str
    at: str = "first"

    @classmethod
    def parse(cls, text: Any, defs: Mapping[str, str]) -> Condition:
        """Raises `ValueError` for anything that is not of the form."""
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"a filter is 'field op value [at first|last|any|all]', got {text!r}")
        op, at = match["op"], match["at"] or "first"
        if op not in _OPS:
            raise ValueError(f"filter {text!r}: " + unknown_name("operator", op, _OPS))
        if at not in _AT:
            raise ValueError(f"filter {text!r}: " + unknown_name("step", at, _AT))
        value = _value(match["value"])
        if op == "matches":
            try:
                value = str(value) if not isinstance(value, str) else value
                re.compile(value)
            except re.error as error:
                raise ValueError(f"filter {text!r}: not a regular expression, {error}") from None
        elif op not in ("==", "!=") and isinstance(value, str | bool):
            raise ValueError(f"filter {text!r}: {op} compares with a number, got {match['value']}")
        if match["field"] == "len" and (isinstance(value, str | bool) or op == "matches"):
            raise ValueError(f"filter {text!r}: len is compared with a number")
        return cls(text, Selection.parse(match["field"], defs=defs), op, value, at)

    def check_field(self, specs: Mapping[str, FieldSpec]) -> None:
        """Raise `ValueError` for a field of a known source that is neither a step field nor metadata by its name."""
        path = self.field.path
        if path in _SPECIAL or path in specs or "/" not in path or path.startswith("episode_metadata/"):
            return
        raise ValueError(f"filter {self.text!r}: " + unknown_name("field", path, specs))

    def holds(self, raw: RawEpisode, instructions: tuple[str, ...]) -> bool:
        """Raises `EpisodeError` for an episode that does not have the field."""
        path = self.field.path
        if path == "len":
            return bool(_ORDERED[self.op](raw.num_steps, self.value))
        if path == "language":
            return any(self._test(text) for text in instructions)
        if path == "name":
            return self._test(raw.name)
        if path in raw.fields:
            values = np.asarray(raw.fields[path])
            if values.dtype.kind in "fiub":
                values = self.field.read(raw)
            return _AT[self.at]([self._test(_plain(value)) for value in values])
        value = lookup_metadata(raw, path, _MISSING)
        if value is _MISSING:
            known = (*raw.fields, *raw.metadata, *_SPECIAL)
            raise EpisodeError("missing_field", f"filter {self.text!r}: " + unknown_name("field", path, known))
        return self._test(_plain(value))

    def _test(self, value: Any) -> bool:
        if self.op == "matches":
            return re.search(str(self.value), str(value)) is not None
        if isinstance(value, str) != isinstance(self.value, str):
            raise EpisodeError("bad_value", f"filter {self.text!r} compares {self.value!r} with {value!r}")
        return bool(_ORDERED[self.op](value, self.value))


def _value(text: str) -> float | bool | str:
    if text[0] in "\"'" and text[-1] == text[0] and len(text) > 1:
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    """One number or text of a value; an array must hold exactly one."""
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise EpisodeError("bad_value", f"a filter reads one value a step, got {value.size}: add [index]")
        value = value.ravel()[0]
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode("utf-8") if isinstance(value, bytes) else value
