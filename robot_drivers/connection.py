"""The `connection` of an arm or a camera in the robot YAML -> the driver's own dataclass, checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from data_pipeline.schema.registry import check_keys

C = TypeVar("C")


def read_connection(cls: type[C], where: str, given: Mapping[str, Any]) -> C:
    """The connection that a YAML gives, as the dataclass `cls` of a driver.

    `where` names the place for messages (`arms.left.connection`). Fields are text, numbers, truth values or a
    `Literal`. Raises `ValueError` for a key that is unknown (with the nearest), missing or of the wrong kind.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    check_keys(where, given, known)
    missing = [name for name, f in known.items() if f.default is MISSING and name not in given]
    if missing:
        raise ValueError(f"{where} lacks {missing}: it takes {', '.join(known)}")
    kinds = get_type_hints(cls)
    for key, value in given.items():
        _check_kind(f"{where}.{key}", value, kinds[key])
    try:
        return cls(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_kind(where: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{where} must be one of {', '.join(map(str, get_args(kind)))}, got {value!r}")
        return
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        hint = " (put a number of digits in quotes)" if kind is str and isinstance(value, int) else ""
        raise ValueError(f"{where} must be of kind {kind.__name__}, got {value!r}{hint}")
