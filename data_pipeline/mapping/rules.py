"""Rules: which numbers of a record go into which slots of the unified vector, and what happens on the way.

A rule is checked when it is made: its slots exist, its operations fit one another, and where the width of its field is
known the number of slots is right. What is not known before a record is checked at the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from data_pipeline.mapping.op_syntax import parse_op
from data_pipeline.mapping.ops import DeltaToAbsolute, Op, unit_fits
from data_pipeline.mapping.paths import EpisodeError, Selection, numbers
from data_pipeline.mapping.sync import Sync
from data_pipeline.schema.layout import NUM_SLOTS, SLOT_NAMES, SLOT_UNITS, slot_range
from data_pipeline.schema.registry import check_keys, unknown_name
from data_pipeline.sources.raw import FieldSpec, RawEpisode

_KEYS = ("to", "from", "take", "ops", "optional", "when", "sync", "within", "compat")
_GRIPPER_UNIT = "opening in [0, 1]"


@dataclass(frozen=True)
class Rule:
    """One field, or some of it, on its way into slots."""

    slots: range
    source: Selection
    ops: tuple[Op, ...] = ()
    optional: bool = False  # a record without the field leaves the slots empty
    when_dim: int | None = None  # applies only to records whose field has this many numbers
    sync: Sync | None = None
    within: tuple[float, float] = (0.0, 1.0)  # what gripper slots are known to hold; reported outside, never clipped
    quirks: Mapping[str, Any] = field(default_factory=dict)  # compat name -> keys that it replaces
    label: str = ""  # "state[2] (to right_eef_pos)"

    @classmethod
    def parse(
        cls,
        raw: Any,
        label: str,
        *,
        defs: Mapping[str, str],
        rate_hz: float | None,
        compat: str | None,
    ) -> Rule:
        """From YAML. Raises `ValueError` that begins with `label` and the slots."""
        if not isinstance(raw, Mapping):
            raise ValueError(f"{label}: a rule is {{to, from, ops}}, got {raw!r}")
        label = f"{label} (to {raw.get('to')})"
        try:
            check_keys("rule", raw, _KEYS)
            quirks = raw.get("compat") or {}
            check_keys("compat", quirks, ("rdt",))
            if compat in quirks:
                check_keys(f"compat {compat}", quirks[compat], set(_KEYS) - {"compat"})
                raw = {**raw, **quirks[compat]}
            for key in ("to", "from"):
                if key not in raw:
                    raise ValueError(f"a rule needs {key!r}")
            return cls(
                slots=_slots(raw["to"]),
                source=Selection.parse(raw["from"], raw.get("take"), defs),
                ops=tuple(parse_op(op, rate_hz) for op in _list("ops", raw.get("ops", []))),
                optional=_flag("optional", raw.get("optional", False)),
                when_dim=_when(raw.get("when")),
                sync=None if raw.get("sync") is None else Sync.parse(raw["sync"]),
                within=_within(raw.get("within", [0, 1])),
                quirks=dict(quirks),
                label=label,
            )._checked()
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None

    def _checked(self) -> Rule:
        unit, slot_units = None, {SLOT_UNITS[slot] for slot in self.slots}
        if "reserved" in slot_units:
            raise ValueError(f"slot {SLOT_NAMES[self.slots[0]]} is reserved")
        for op in self.ops:
            unit = op.unit(unit)
        (slot_unit,) = slot_units  # one block, one unit
        if not unit_fits(unit, slot_unit):
            if unit is None:
                raise ValueError("rotation slots take a rotation: end the ops in rot, {in: rot6d} for six numbers")
            raise ValueError(f"the slots hold {slot_unit}, the operations give {unit}")
        self.check_width(None)
        return self

    def check_width(self, available: int | None) -> None:
        """Raise `ValueError` unless `available` numbers a step (None: not known) fill the slots exactly."""
        if self.when_dim is not None and available is not None and available != self.when_dim:
            return
        try:
            width = self.source.width(self.when_dim if available is None else available)
            for op in self.ops:
                width = op.width(width)
        except ValueError as error:
            raise ValueError(f"field {self.source.path!r}: {error}") from None
        if width is not None and width != len(self.slots):
            raise ValueError(
                f"field {self.source.path!r} gives {width} numbers (read as {self.source}), expected "
                f"{len(self.slots)} for slots {self.slots.start}-{self.slots.stop - 1}"
            )

    def check_field(self, fields: Mapping[str, FieldSpec]) -> None:
        """Raise `ValueError` for a field that the source does not have or whose width is wrong."""
        if self.source.constants is not None:
            return
        spec = fields.get(self.source.path)
        if spec is None:
            if not self.optional:
                raise ValueError(f"{self.label}: " + unknown_name("field", self.source.path, fields))
            return
        if spec.kind != "array":
            raise ValueError(f"{self.label}: field {self.source.path!r} must hold numbers, it is {spec.kind}")
        known = all(n is not None for n in spec.shape)
        try:
            self.check_width(prod(n for n in spec.shape if n is not None) if known else None)
        except ValueError as error:
            raise ValueError(f"{self.label}: {error}") from None

    def applies(self, raw: RawEpisode) -> bool:
        """Whether this record has the field in this width. Raises `EpisodeError` where it lacks a needed one."""
        if self.source.constants is not None:
            return True
        if self.optional and self.source.path not in raw.fields:
            return False
        return self.when_dim is None or numbers(raw, self.source.path).shape[1] == self.when_dim

    def read(self, raw: RawEpisode) -> np.ndarray:
        """The field's own numbers (steps, width), before any operation."""
        return self.source.read(raw)

    def __call__(self, raw: RawEpisode, states: np.ndarray | None = None) -> np.ndarray:
        """(steps, slots) float64. Raises `EpisodeError`, with field, got and expected for a wrong width."""
        try:
            values = self.read(raw)
            self.check_width(1 if self.source.constants is not None else numbers(raw, self.source.path).shape[1])
            for op in self.ops:
                values = op(values, states) if isinstance(op, DeltaToAbsolute) else op(values)
        except EpisodeError as error:
            raise EpisodeError(error.kind, f"{self.label}: {error}") from None
        except ValueError as error:
            kind = "wrong_width" if str(error).startswith("field ") else "bad_value"
            raise EpisodeError(kind, f"{self.label}: {error}") from None
        return values


@dataclass(frozen=True)
class RuleSet:
    """Rules that fill one vector, no slot twice."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, raw: Any, label: str, **context: Any) -> RuleSet:
        try:
            entries = _list(label, raw)
        except ValueError as error:
            raise ValueError(str(error)) from None
        rules = tuple(Rule.parse(entry, f"{label}[{i}]", **context) for i, entry in enumerate(entries))
        check_disjoint(rules)
        return cls(rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def active(self, raw: RawEpisode) -> list[Rule]:
        """The rules that this record uses. Raises `EpisodeError` when every width that a field may have is missed."""
        active = [rule for rule in self.rules if rule.applies(raw)]
        needed: dict[str, list[int]] = {}
        for rule in self.rules:
            if rule.when_dim is not None and not rule.optional:
                needed.setdefault(rule.source.path, []).append(rule.when_dim)
        for path, dims in needed.items():
            got = numbers(raw, path).shape[1]
            if got not in dims:
                raise EpisodeError(
                    "wrong_width", f"field {path!r} has {got} numbers a step, expected one of {sorted(dims)}"
                )
        return active

    def fill(self, raw: RawEpisode, states: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The unified vectors (steps, 128) float64 of a record and their mask (128,). Raises `EpisodeError`."""
        vectors = np.zeros((raw.num_steps, NUM_SLOTS))
        mask = np.zeros(NUM_SLOTS, dtype=bool)
        for rule in self.active(raw):
            vectors[:, rule.slots.start : rule.slots.stop] = rule(raw, states)
            mask[rule.slots.start : rule.slots.stop] = True
        return vectors, mask

    def outside(self, vectors: np.ndarray, mask: np.ndarray, tolerance: float = 0.05) -> dict[str, tuple[float, float]]:
        """Gripper slots that leave what their rule knows: name -> smallest and largest value."""
        found = {}
        for rule in self.rules:
            low, high = rule.within
            slack = tolerance * (high - low)
            for slot in rule.slots:
                if SLOT_UNITS[slot] == _GRIPPER_UNIT and mask[slot]:
                    least, most = float(vectors[:, slot].min()), float(vectors[:, slot].max())
                    if least < low - slack or most > high + slack:
                        found[SLOT_NAMES[slot]] = (least, most)
        return found

    def slots(self) -> set[int]:
        return {slot for rule in self.rules for slot in rule.slots}


def check_disjoint(rules: Sequence[Rule]) -> None:
    """Raise `ValueError` for two rules that write one slot, unless no record can use both."""
    for one, other in combinations(rules, 2):
        shared = sorted(set(one.slots) & set(other.slots))
        exclusive = (
            one.source.path == other.source.path
            and one.when_dim is not None
            and other.when_dim is not None
            and one.when_dim != other.when_dim
        )
        if shared and not exclusive:
            raise ValueError(f"{one.label} and {other.label} both write slot {shared[0]}, {SLOT_NAMES[shared[0]]}")


def _slots(text: Any) -> range:
    if not isinstance(text, str):
        raise ValueError(f"to takes a block of slots, got {text!r}")
    return slot_range(text)


def _list(name: str, raw: Any) -> list:
    if not isinstance(raw, list):
        raise ValueError(f"{name} must be a list, got {raw!r}")
    return raw


def _flag(name: str, raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"{name} must be true or false, got {raw!r}")
    return raw


def _when(raw: Any) -> int | None:
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or set(raw) != {"dim"} or type(raw["dim"]) is not int or raw["dim"] < 1:
        raise ValueError(f"when takes {{dim: numbers a step}}, got {raw!r}")
    return raw["dim"]


def _within(raw: Any) -> tuple[float, float]:
    good = isinstance(raw, list) and len(raw) == 2 and all(isinstance(x, int | float) for x in raw)
    if not good or not raw[0] < raw[1]:
        raise ValueError(f"within takes [low, high], got {raw!r}")
    return float(raw[0]), float(raw[1])
