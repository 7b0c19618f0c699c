"""From a mapping of plain values to the fields of a dataclass: unknown, missing and misread values by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from data_pipeline.schema.registry import check_keys


def fields_of(cls: type, where: str, raw: Any) -> dict[str, Any]:
    """The keys of `raw` that are fields of `cls`; unknown and missing ones are errors."""
    mapping(where, raw)
    known = {f.name: f for f in fields(cls)}
    check_keys(where, raw, known)
    required = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - set(raw))
    if missing:
        raise ValueError(f"{where} lacks {missing}")
    return dict(raw)


def mapping(where: str, raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where} must be a mapping of keys, got {raw!r}")
    return raw


def pair(where: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{where} must be two numbers, got {value!r}")
    low, high = value
    return number(where, low), number(where, high)


def triple(where: str, value: Any) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ValueError(f"{where} must be three numbers, got {value!r}")
    x, y, z = value
    return number(where, x), number(where, y), number(where, z)


def number(where: str, value: Any) -> float:
    """A float. YAML reads `1e3` as text and `yes` as a truth value: both are refused by name."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        hint = " (YAML wants a dot and a sign in exponents: 1.0e+3)" if isinstance(value, str) else ""
        raise ValueError(f"{where} must be a number, got {value!r}{hint}")
    return float(value)


def positive(where: str, value: Any) -> None:
    if not number(where, value) > 0:
        raise ValueError(f"{where} must be positive, got {value}")


def plain(row: Any) -> dict[str, Any]:
    """A dataclass as a mapping of plain types, without what equals its default (so no infinity meets JSON)."""
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(row)}
    values = {name: getattr(row, name) for name, default in defaults.items() if getattr(row, name) != default}
    return {key: _lists(value) for key, value in values.items()}


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
