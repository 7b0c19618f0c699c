"""Instructions: which texts of a record are phrasings of its task, and how they are cleaned.

A field is a path of a step field or of episode metadata, with `[i]` for one entry of a list, or `sidecar:NAME` for a
file beside the episode. Cleaning is: replace each text, in order; strip; first letter large; full stop at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.mapping.paths import EpisodeError, expand, parse_slice, split_brackets
from data_pipeline.schema.registry import check_keys, unknown_name
from data_pipeline.sources.raw import FieldSpec, RawEpisode

SIDECAR = "sidecar:"
CHOICES = ("first_nonempty", "random", "all")
DECODINGS = ("utf8", "codepoints")
_KEYS = ("fields", "choose", "decode", "constant", "replace", "capitalise", "full_stop", "drop_if_empty")
_METADATA = "episode_metadata/"


@dataclass(frozen=True)
class Instructions:
    """The phrasings of an episode, the share of each, and which one each step carries if they follow one another."""

    texts: tuple[str, ...]
    weights: tuple[float, ...]  # sum 1
    of_step: np.ndarray | None = None  # int64 (steps,); None: every phrasing holds for the whole episode


@dataclass(frozen=True)
class TextPath:
    """One field of text."""

    path: str
    index: int | None = None

    @classmethod
    def parse(cls, text: Any, defs: Mapping[str, str]) -> TextPath:
        if not isinstance(text, str) or not text:
            raise ValueError(f"fields are paths, got {text!r}")
        path, inside = split_brackets(text)
        index = None if inside is None else parse_slice(inside)
        if isinstance(index, slice):
            raise ValueError(f"{text!r}: a text takes one index, [0]")
        return cls(path if path.startswith(SIDECAR) else expand(path, defs), None if index is None else index[0])


@dataclass(frozen=True)
class Language:
    """The `language` part of a mapping.

    choose: first_nonempty (the first text there is), random (a field, then one of its texts, each with equal chance)
    or all (every text with equal chance). decode: codepoints for fields of UTF-32 numbers, padded with 0.
    """

    fields: tuple[TextPath, ...] = ()
    choose: str = "first_nonempty"
    decode: str = "utf8"
    constant: str | None = None
    replace: tuple[tuple[str, str], ...] = ()
    capitalise: bool = True
    full_stop: bool = True
    drop_if_empty: bool = False

    @classmethod
    def parse(cls, raw: Any, defs: Mapping[str, str]) -> Language:
        if not isinstance(raw, Mapping):
            raise ValueError(f"language takes fields or a constant, got {raw!r}")
        check_keys("language", raw, _KEYS)
        if ("fields" in raw) == ("constant" in raw):
            raise ValueError("language needs either fields or a constant")
        given = dict(raw)
        for key, choices in (("choose", CHOICES), ("decode", DECODINGS)):
            if key in given and given[key] not in choices:
                raise ValueError("language: " + unknown_name(key, str(given[key]), choices))
        for key in ("capitalise", "full_stop", "drop_if_empty"):
            if not isinstance(given.get(key, False), bool):
                raise ValueError(f"language.{key} must be true or false, got {given[key]!r}")
        replace = given.get("replace") or {}
        if not isinstance(replace, Mapping) or not all(isinstance(t, str) for pair in replace.items() for t in pair):
            raise ValueError(f"language.replace takes {{old: new}}, texts in quotes, got {replace!r}")
        if "constant" in given and not isinstance(given["constant"], str):
            raise ValueError(f"language.constant must be a text, got {given['constant']!r}")
        fields = given.get("fields", [])
        if not isinstance(fields, list) or ("fields" in given and not fields):
            raise ValueError(f"language.fields is a list of paths, got {fields!r}")
        given["replace"] = tuple(replace.items())
        given["fields"] = tuple(TextPath.parse(text, defs) for text in fields)
        return cls(**given)

    def check_fields(self, specs: Mapping[str, FieldSpec]) -> None:
        """Raise `ValueError` for a step field that the source does not have; metadata is known by its records only."""
        for field in self.fields:
            if field.path.startswith((SIDECAR, _METADATA)):
                continue
            spec = specs.get(field.path)
            wanted = "array" if self.decode == "codepoints" else "text"
            if spec is None:
                raise ValueError("language: " + unknown_name("field", field.path, specs))
            if spec.kind != wanted:
                raise ValueError(
                    f"language: field {field.path!r} must be {wanted} for {self.decode}, it is {spec.kind}"
                )

    def clean(self, text: str) -> str:
        for old, new in self.replace:
            text = text.replace(old, new)
        text = text.strip()
        if self.capitalise:
            text = text[:1].upper() + text[1:]
        if self.full_stop and text and text[-1] not in ".!?":
            text += "."
        return text

    def read(self, raw: RawEpisode) -> Instructions:
        """The phrasings of an episode, one empty text where it has none. Raises `EpisodeError` for `drop_if_empty`."""
        if self.constant is not None:
            return Instructions((self.clean(self.constant),), (1.0,))
        groups = [[self.clean(text) for text in self._texts(raw, field)] for field in self.fields]
        full = [(field, group) for field, group in zip(self.fields, groups, strict=True) if any(group)]
        if not full:
            if self.drop_if_empty:
                raise EpisodeError("no_language", f"no text in {', '.join(field.path for field in self.fields)}")
            return Instructions(("",), (1.0,))
        if self.choose == "first_nonempty":
            field, group = full[0]
            if field.path in raw.fields and field.path not in raw.metadata:
                return _by_step(group)
            return Instructions((next(text for text in group if text),), (1.0,))
        shares: dict[str, float] = {}
        kept = [[text for text in dict.fromkeys(group) if text] for _, group in full]
        count = sum(map(len, kept))
        for group in kept:
            for text in group:
                share = 1 / count if self.choose == "all" else 1 / len(kept) / len(group)
                shares[text] = shares.get(text, 0.0) + share
        return Instructions(tuple(shares), tuple(shares.values()))

    def _texts(self, raw: RawEpisode, field: TextPath) -> list[str]:
        """Texts of one field, cleaned of nothing: one a step, or the entries of an episode's value."""
        if field.path.startswith(SIDECAR):
            return self._entries(raw.sidecar.get(field.path[len(SIDECAR) :], []), field)
        if field.path in raw.fields:
            return [self._one(step, field) for step in raw.fields[field.path]]
        return self._entries(lookup_metadata(raw, field.path, []), field)

    def _entries(self, value: Any, field: TextPath) -> list[str]:
        listed = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind not in "iu")
        entries = np.atleast_1d(value).tolist() if isinstance(value, np.ndarray) and listed else value
        if not listed:
            return [self._one(value, field)]
        chosen = entries if field.index is None else entries[field.index : field.index + 1 or None]
        return [self._one(entry, TextPath(field.path)) for entry in chosen]

    def _one(self, value: Any, field: TextPath) -> str:
        if self.decode == "codepoints" and not isinstance(value, str | bytes):
            return "".join(chr(int(code)) for code in np.ravel(value) if code)
        if isinstance(value, list | tuple | np.ndarray):
            row = list(np.ravel(np.asarray(value, dtype=object)))
            value = row[field.index or 0] if row else ""
        if isinstance(value, bytes):
            value = value.decode("utf-8")
        if not isinstance(value, str):
            raise EpisodeError("no_language", f"field {field.path!r} must hold text, got {type(value).__name__}")
        return value


def lookup_metadata(raw: RawEpisode, path: str, default: Any) -> Any:
    """An episode's value by its path, with or without `episode_metadata/`."""
    return raw.metadata.get(path, raw.metadata.get(_METADATA + path, default))


def _by_step(texts: Sequence[str]) -> Instructions:
    """Of one text a step; steps without one carry the text before them."""
    filled: list[str] = []
    current = next(text for text in texts if text)
    for text in texts:
        current = text or current
        filled.append(current)
    distinct = list(dict.fromkeys(filled))
    weights = tuple(filled.count(text) / len(filled) for text in distinct)
    of_step = np.array([distinct.index(text) for text in filled], dtype=np.int64) if len(distinct) > 1 else None
    return Instructions(tuple(distinct), weights, of_step)
