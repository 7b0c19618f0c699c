"""What a rule may do to the numbers of a field: the closed list of operations (spec data.md section 5).

An operation is a frozen dataclass that is called with values (steps, n) and returns (steps, m), float64, all steps at
once. Two more functions let a mapping be checked before a record is read: `width` says how many numbers come out and
refuses a wrong number going in; `unit` follows what is known of their unit. Operations that look at time take nothing
from the future: a state of step t is a function of the steps up to t.

Units in that flow: None (the file's own, unknown), "ratio", "m", "rad", "6-D rotation", and rates "m/s", "rad/s",
"1/s", "?/s".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from data_pipeline.schema import rotation
from data_pipeline.schema.layout import SLOT_UNITS

ROT6D = "6-D rotation"
RATIO = "ratio"

_SLOTS_OF_UNIT = {
    RATIO: ("opening in [0, 1]",),
    "m": ("m", "m/s"),  # mm/s become m/s by the same factor
    "rad": ("rad", "rad/s"),
}


def unit_fits(unit: str | None, slot_unit: str) -> bool:
    """Whether numbers of `unit` may stand in a slot of `slot_unit`; only a rotation has to be known."""
    if unit is None:
        return slot_unit != ROT6D
    if unit == "?/s":
        return slot_unit.endswith("/s")
    return slot_unit in _SLOTS_OF_UNIT.get(unit, (unit,))


class Op:
    """One operation. `values` and the result are (steps, numbers)."""

    name: ClassVar[str]
    needs_states: ClassVar[bool] = False  # called with the unified states (steps, 128) as well

    def width(self, n: int | None) -> int | None:
        """Numbers a step that come out of `n`; None: not known before a record. Raises `ValueError`."""
        return n

    def unit(self, unit: str | None) -> str | None:
        """Unit of what comes out. Raises `ValueError` for what goes in."""
        return unit

    def __call__(self, values: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class Scale(Op):
    """x * factor; one factor, or one for each number."""

    factor: float | tuple[float, ...]
    name: ClassVar[str] = "scale"

    def width(self, n: int | None) -> int | None:
        return _same_width(self.name, self.factor, n)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values * np.asarray(self.factor)


@dataclass(frozen=True)
class Offset(Op):
    """x + amount; one amount, or one for each number."""

    amount: float | tuple[float, ...]
    name: ClassVar[str] = "offset"

    def width(self, n: int | None) -> int | None:
        return _same_width(self.name, self.amount, n)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values + np.asarray(self.amount)


@dataclass(frozen=True)
class Invert01(Op):
    """1 - x: a closedness becomes an opening."""

    name: ClassVar[str] = "invert01"

    def unit(self, unit: str | None) -> str | None:
        if unit not in (None, RATIO):
            raise ValueError(f"invert01 takes a ratio in [0, 1], got {unit}: use range [low, high] first")
        return RATIO

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return 1.0 - values


@dataclass(frozen=True)
class Range(Op):
    """(x - low) / (high - low), not clipped; high below low inverts."""

    low: float
    high: float
    name: ClassVar[str] = "range"

    def unit(self, unit: str | None) -> str | None:
        return RATIO

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (values - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Clip(Op):
    """x held between low and high; what is not a number stays so."""

    low: float
    high: float
    name: ClassVar[str] = "clip"

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, self.low, self.high)


COMPARISONS: dict[str, Callable[[Any, Any], np.ndarray]] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
    "==": np.equal,
}


@dataclass(frozen=True)
class Threshold(Op):
    """One number where the comparison holds, another where it does not; what is not a number stays so."""

    op: str
    value: float
    true: float
    false: float
    name: ClassVar[str] = "threshold"

    def unit(self, unit: str | None) -> str | None:
        return None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        chosen = np.where(COMPARISONS[self.op](values, self.value), self.true, self.false)
        return np.where(np.isnan(values), np.nan, chosen)


@dataclass(frozen=True)
class Cast(Op):
    """Rounded to single precision, for a source that stores more digits than it has."""

    to: str
    name: ClassVar[str] = "cast"

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32).astype(np.float64)


UNITS = {"mm": (1e-3, "m"), "cm": (1e-2, "m"), "deg": (np.pi / 180, "rad")}


@dataclass(frozen=True)
class Unit(Op):
    """Millimetres, centimetres or degrees (or any of them a second) to SI."""

    of: str
    name: ClassVar[str] = "unit"

    def unit(self, unit: str | None) -> str | None:
        if unit is not None:
            raise ValueError(f"unit {self.of} takes numbers as the file holds them, but these are {unit} already")
        return UNITS[self.of][1]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values * UNITS[self.of][0]


@dataclass(frozen=True)
class PerStepToRate(Op):
    """A displacement from step to step, times the rate: a velocity."""

    rate_hz: float
    name: ClassVar[str] = "per_step_to_rate"

    def unit(self, unit: str | None) -> str | None:
        return _per_second(self.name, unit)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values * self.rate_hz


@dataclass(frozen=True)
class DiffToVelocity(Op):
    """(x[t] - x[t-1]) * rate, 0 at the first step."""

    rate_hz: float
    name: ClassVar[str] = "diff_to_velocity"

    def unit(self, unit: str | None) -> str | None:
        return _per_second(self.name, unit)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.diff(values, axis=0, prepend=values[:1]) * self.rate_hz


@dataclass(frozen=True)
class Lowpass(Op):
    """First-order filter with its corner at `hz`: y[t] = y[t-1] + a (x[t] - y[t-1]), a = 1 - exp(-2 pi hz / rate).

    Starts settled, y[0] = x[0]. A step that is not a number spoils all that follow.
    """

    hz: float
    rate_hz: float
    name: ClassVar[str] = "lowpass"

    def unit(self, unit: str | None) -> str | None:
        if unit == ROT6D:
            raise ValueError("lowpass mixes the numbers of a rotation: filter before rot, or not at all")
        return unit

    def __call__(self, values: np.ndarray) -> np.ndarray:
        keep = np.exp(-2 * np.pi * self.hz / self.rate_hz)
        response = (1 - keep) * keep ** np.arange(len(values))
        moved = values - values[:1]
        filtered = [np.convolve(column, response)[: len(values)] for column in moved.T]
        return values[:1] + np.stack(filtered, axis=1)


ROTATION_WIDTHS = {"quat": 4, "euler": 3, "axis_angle": 3, "mat3": 9, "mat4": 16, "rot6d": 6}


@dataclass(frozen=True)
class Rot(Op):
    """Any form of a rotation -> its six numbers, first column of R then the second.

    quat: `order` xyzw or wxyz. euler: angles in rad for each letter of `seq` in order, `frame` extrinsic (fixed axes)
    or intrinsic (moving axes). mat3, mat4: `layout` row (R's rows one after the other) or column. rot6d: `layout`
    column (the first two columns) or row; made orthogonal.
    """

    form: str
    order: str = "xyzw"
    seq: str = "xyz"
    frame: str = "extrinsic"
    layout: str = "row"
    name: ClassVar[str] = "rot"

    def width(self, n: int | None) -> int | None:
        expected = ROTATION_WIDTHS[self.form]
        if n is not None and n != expected:
            raise ValueError(f"rot {self.form} takes {expected} numbers, got {n}")
        return 6

    def unit(self, unit: str | None) -> str | None:
        angles = self.form in ("euler", "axis_angle")
        if unit is not None and not (angles and unit == "rad"):
            wanted = "angles in rad" if angles else "the file's own numbers"
            raise ValueError(f"rot {self.form} takes {wanted}, got {unit}")
        return ROT6D

    def matrices(self, values: np.ndarray) -> np.ndarray:
        """(steps, n) -> (steps, 3, 3)."""
        if self.form == "quat":
            return rotation.matrix_from_quaternion(values if self.order == "xyzw" else np.roll(values, -1, axis=-1))
        if self.form == "euler":
            return rotation.matrix_from_euler_sequence(values, self.seq, intrinsic=self.frame == "intrinsic")
        if self.form == "axis_angle":
            return rotation.matrix_from_axis_angle(values)
        if self.form == "mat3":
            return _square(values, 3, self.layout)
        if self.form == "mat4":
            return _pose(values, self.layout)[..., :3, :3]
        R = rotation.matrix_from_rot6d(values)
        return R if self.layout == "column" else np.swapaxes(R, -1, -2)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return rotation.rot6d_from_matrix(self.matrices(values))


@dataclass(frozen=True)
class PosOfMat4(Op):
    """The translation of a 4 x 4 pose."""

    layout: str
    name: ClassVar[str] = "pos_of_mat4"

    def width(self, n: int | None) -> int | None:
        if n not in (None, 16):
            raise ValueError(f"pos_of_mat4 takes 16 numbers, got {n}")
        return 3

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return _pose(values, self.layout)[..., :3, 3]


@dataclass(frozen=True)
class DeltaToAbsolute(Op):
    """A command relative to the state of its step, made absolute; called with the states as well.

    Without `rot` the values are added to the state's slots `base`; in frame "tool" they are turned into the base
    frame first, by the rotation of the same arm. With `rot` they are a rotation in that form and `base` is a block of
    six numbers: R = dR R_state in frame "base", R_state dR in frame "tool".
    """

    base: range
    frame: str
    rot: Rot | None = None
    name: ClassVar[str] = "delta_to_absolute"
    needs_states: ClassVar[bool] = True

    def width(self, n: int | None) -> int | None:
        expected = len(self.base) if self.rot is None else ROTATION_WIDTHS[self.rot.form]
        if n not in (None, expected):
            raise ValueError(f"delta_to_absolute takes {expected} numbers, got {n}")
        return len(self.base)

    def unit(self, unit: str | None) -> str | None:
        base_unit = SLOT_UNITS[self.base.start]
        if self.rot is not None:
            return self.rot.unit(unit)
        if not unit_fits(unit, base_unit):
            raise ValueError(f"delta_to_absolute adds to {base_unit}, got {unit}")
        return base_unit if base_unit != "opening in [0, 1]" else RATIO

    def needed_slots(self) -> tuple[int, ...]:
        """Slots of the state that have to be filled."""
        return tuple(self.base) + (tuple(_rotation_beside(self.base)) if self._turns else ())

    @property
    def _turns(self) -> bool:
        return self.rot is None and self.frame == "tool"

    def __call__(self, values: np.ndarray, states: np.ndarray | None = None) -> np.ndarray:
        if states is None:
            raise ValueError("delta_to_absolute is called with the states")
        here = states[:, self.base.start : self.base.stop].astype(np.float64)
        if self.rot is not None:
            delta, R = self.rot.matrices(values), rotation.matrix_from_rot6d(here)
            return rotation.rot6d_from_matrix(delta @ R if self.frame == "base" else R @ delta)
        if self._turns:
            beside = _rotation_beside(self.base)
            R = rotation.matrix_from_rot6d(states[:, beside.start : beside.stop])
            values = np.einsum("tij,tj->ti", R, values)
        return here + values


def _same_width(name: str, parameter: float | tuple[float, ...], n: int | None) -> int | None:
    if isinstance(parameter, tuple) and n is not None and len(parameter) != n:
        raise ValueError(f"{name} has {len(parameter)} entries for {n} numbers")
    return len(parameter) if isinstance(parameter, tuple) else n


def _per_second(name: str, unit: str | None) -> str:
    if unit == ROT6D or (unit is not None and unit.endswith("/s")):
        raise ValueError(f"{name} takes a position, got {unit}")
    return {None: "?/s", RATIO: "1/s"}.get(unit, f"{unit}/s")


def _square(values: np.ndarray, side: int, layout: str) -> np.ndarray:
    matrix = values.reshape(*values.shape[:-1], side, side)
    return matrix if layout == "row" else np.swapaxes(matrix, -1, -2)


def _pose(values: np.ndarray, layout: str) -> np.ndarray:
    """(steps, 16) -> (steps, 4, 4). Raises `ValueError` where the other layout is plainly the right one."""
    poses = _square(values, 4, layout)
    last = np.array([0.0, 0.0, 0.0, 1.0])
    if not np.allclose(poses[..., 3, :], last, atol=1e-3) and np.allclose(poses[..., :, 3], last, atol=1e-3):
        other = "column" if layout == "row" else "row"
        raise ValueError(f"the 4 x 4 poses end in the row (0, 0, 0, 1) only when read as layout {other}, not {layout}")
    return poses


def _rotation_beside(position: range) -> range:
    """The six rotation slots after an arm's three position slots."""
    return range(position.stop, position.stop + 6)
