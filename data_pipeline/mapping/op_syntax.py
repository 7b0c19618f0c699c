"""Operations as YAML writes them: a name, or one `name: parameters` (spec data.md section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_pipeline.mapping.ops import (
    COMPARISONS,
    ROT6D,
    ROTATION_WIDTHS,
    UNITS,
    Cast,
    Clip,
    DeltaToAbsolute,
    DiffToVelocity,
    Invert01,
    Lowpass,
    Offset,
    Op,
    PerStepToRate,
    PosOfMat4,
    Range,
    Rot,
    Scale,
    Threshold,
    Unit,
)
from data_pipeline.schema.layout import SLOT_UNITS, slot_range
from data_pipeline.schema.registry import check_keys, unknown_name


def parse_op(raw: Any, rate_hz: float | None) -> Op:
    """An operation as YAML writes it: a name, or one key with its parameters.

    `rate_hz` is the mapping's fixed rate, None where each recording has its own. Raises `ValueError`.
    """
    if isinstance(raw, str):
        name, value = raw, None
    elif isinstance(raw, Mapping) and len(raw) == 1:
        name, value = next(iter(raw.items()))
    else:
        raise ValueError(f"an operation is a name or one 'name: parameters', got {raw!r}")
    if name not in _PARSERS:
        raise ValueError(unknown_name("operation", str(name), _PARSERS))
    try:
        return _PARSERS[name](value, rate_hz)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def parse_rot(value: Any) -> Rot:
    given = _parameters(value, ("in",), ("order", "seq", "frame", "layout"))
    form = _choice("in", given.pop("in"), ROTATION_WIDTHS)
    used = {"quat": {"order"}, "euler": {"seq", "frame"}, "axis_angle": set()}.get(form, {"layout"})
    for key in given:
        if key not in used:
            raise ValueError(f"{form} has no {key!r}; it takes {', '.join(sorted(used)) or 'nothing more'}")
    if form in ("mat3", "mat4") and "layout" not in given:
        raise ValueError(f"{form} needs layout: row or column")
    given.setdefault("layout", "column" if form == "rot6d" else "row")
    for key, choices in (
        ("order", ("xyzw", "wxyz")),
        ("frame", ("extrinsic", "intrinsic")),
        ("layout", ("row", "column")),
    ):
        if key in given:
            _choice(key, given[key], choices)
    rot = Rot(form, **given)
    if form == "euler":
        rot.matrices(np.zeros((1, 3)))  # refuses a sequence that is none
    return rot


def _parse_delta(value: Any, rate_hz: float | None) -> DeltaToAbsolute:
    given = _parameters(value, ("base",), ("frame", "rot"))
    base = slot_range(given["base"])
    frame = _choice("frame", given.get("frame", "base"), ("base", "tool"))
    rot = parse_rot(given["rot"]) if given.get("rot") is not None else None
    is_rotation = SLOT_UNITS[base.start] == ROT6D
    if is_rotation != (rot is not None) or (is_rotation and len(base) != 6):
        raise ValueError(f"base {given['base']!r} and rot must go together: rot turns the six slots of a rotation")
    if rot is None and frame == "tool" and (SLOT_UNITS[base.start] != "m" or len(base) != 3):
        raise ValueError(f"frame tool turns the three slots of a position, got base {given['base']!r}")
    return DeltaToAbsolute(base, frame, rot)


def _parse_threshold(value: Any, rate_hz: float | None) -> Threshold:
    given = _parameters(value, ("op", "value", "true", "false"), ())
    numbers = {key: _number(given[key]) for key in ("value", "true", "false")}
    return Threshold(op=_choice("op", given["op"], COMPARISONS), **numbers)


def _parse_pair(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"takes [low, high], got {value!r}")
    low, high = map(_number, value)
    if low == high:
        raise ValueError(f"low and high must differ, got {value!r}")
    return low, high


def _parse_clip(value: Any, rate_hz: float | None) -> Clip:
    low, high = _parse_pair(value)
    if low > high:
        raise ValueError(f"takes [low, high] with low below high, got {value!r}")
    return Clip(low, high)


def _parse_lowpass(value: Any, rate_hz: float | None) -> Lowpass:
    hz = _number(_parameters(value, ("hz",), ())["hz"])
    if not hz > 0:
        raise ValueError(f"hz must be positive, got {hz}")
    return Lowpass(hz, _rate(rate_hz))


_PARSERS: dict[str, Callable[[Any, float | None], Op]] = {
    "scale": lambda value, rate: Scale(_numbers(value)),
    "offset": lambda value, rate: Offset(_numbers(value)),
    "invert01": lambda value, rate: _bare(value, Invert01()),
    "range": lambda value, rate: Range(*_parse_pair(value)),
    "clip": _parse_clip,
    "threshold": _parse_threshold,
    "cast": lambda value, rate: Cast(_choice("type", value, ("f32",))),
    "unit": lambda value, rate: Unit(_choice("unit", value, UNITS)),
    "per_step_to_rate": lambda value, rate: _bare(value, PerStepToRate(_rate(rate))),
    "rot": lambda value, rate: parse_rot(value),
    "pos_of_mat4": lambda value, rate: PosOfMat4(
        _choice("layout", _parameters(value, ("layout",), ())["layout"], ("row", "column"))
    ),
    "delta_to_absolute": _parse_delta,
    "diff_to_velocity": lambda value, rate: _bare(value, DiffToVelocity(_rate(rate))),
    "lowpass": _parse_lowpass,
}

OP_NAMES = tuple(_PARSERS)


def _bare(value: Any, op: Op) -> Op:
    if value is not None:
        raise ValueError(f"takes no parameters, got {value!r}")
    return op


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"takes a number, got {value!r}")
    return float(value)


def _numbers(value: Any) -> float | tuple[float, ...]:
    return tuple(map(_number, value)) if isinstance(value, list | tuple) and value else _number(value)


def _parameters(value: Any, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"takes {{{', '.join((*required, *optional))}}}, got {value!r}")
    # YAML reads the bare words true and false as truth values, as keys too
    given = {str(key).lower() if isinstance(key, bool) else key: entry for key, entry in value.items()}
    check_keys("parameters", given, (*required, *optional))
    missing = [key for key in required if key not in given]
    if missing:
        raise ValueError(f"needs {', '.join(missing)}")
    return given


def _choice(what: str, value: Any, choices: Any) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(unknown_name(what, str(value), choices))
    return value


def _rate(rate_hz: float | None) -> float:
    if rate_hz is None:
        raise ValueError("needs a fixed rate: give fps a number, or resample")
    return rate_hz
