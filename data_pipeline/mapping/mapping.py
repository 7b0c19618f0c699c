"""A dataset's meaning in YAML: what its fields are in the unified vector (schema v1, spec data.md section 5).

    mapping = Mapping.from_yaml(find_config("datasets", "droid"), source.fields())
    for raw in source.read(shard):
        for result in mapping.apply(raw):           # MappedEpisode | Fault

Everything that can be known without a record is checked when the YAML is read; `apply` never raises for what a record
holds: an episode that cannot be used comes back as a `Fault` of the kind that says why, one that could be repaired by
the mapping's policies as an episode with a `Fault` beside it.

Kinds of fault: filtered, no_language, too_short, still, lengths, timestamps, wrong_rate, gap, missing_field,
wrong_width, bad_value, nan, missing_camera, bad_image, gripper_range, colour.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.mapping.apply import MappedEpisode, apply
from data_pipeline.mapping.config import (
    ActionSpec,
    BaseSpec,
    Cameras,
    Limits,
    Rate,
    SourceSpec,
    parse_defs,
    parse_policies,
)
from data_pipeline.mapping.expressions import Condition
from data_pipeline.mapping.language import Language
from data_pipeline.mapping.ops import DeltaToAbsolute
from data_pipeline.mapping.paths import CONST, expand
from data_pipeline.mapping.rules import RuleSet, check_disjoint
from data_pipeline.mapping.sync import Sync
from data_pipeline.schema.layout import SLOT_NAMES
from data_pipeline.schema.registry import check_keys, read_yaml, unknown_name
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode

_KEYS = (
    "schema",
    "name",
    "notes",
    "source",
    "robot",
    "fps",
    "defs",
    "state",
    "action",
    "base",
    "cameras",
    "language",
    "filter",
    "limits",
    "actor",
    "faults",
    "compat",
)
_REQUIRED = ("schema", "name", "source", "fps", "action", "cameras", "language")


@dataclass(frozen=True)
class Mapping:
    """One dataset YAML, checked."""

    name: str
    source: SourceSpec
    rate: Rate
    state: RuleSet
    action: ActionSpec
    action_rules: RuleSet
    base: BaseSpec
    base_rules: RuleSet
    cameras: Cameras
    language: Language
    filters: tuple[Condition, ...]
    limits: Limits
    policies: abc.Mapping[str, str]
    robot: str = "unknown"
    actor: str | None = None  # path of a text field: who of `ACTORS` gave the action of each step
    compat: str | None = None
    notes: str = ""

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        fields: abc.Mapping[str, FieldSpec] | None = None,
        overrides: abc.Mapping[str, Any] | None = None,
    ) -> Mapping:
        """The mapping in a file, checked against the step fields of its source where those are known.

        `overrides` replaces top-level keys, for instance {"compat": "rdt"}. Raises `ValueError` that begins with the
        file's name and says which rule.
        """
        raw = read_yaml(path)
        try:
            return cls.from_dict({**raw, **(overrides or {})}, fields)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, raw: abc.Mapping[str, Any], fields: abc.Mapping[str, FieldSpec] | None = None) -> Mapping:
        """The mapping that YAML's plain types describe."""
        check_keys("mapping", raw, _KEYS)
        missing = [key for key in _REQUIRED if key not in raw]
        if missing:
            raise ValueError(f"the mapping needs {', '.join(missing)}")
        if raw["schema"] != 1:
            raise ValueError(f"schema must be 1, the only version, got {raw['schema']!r}")
        for key in ("name", "robot", "notes", "actor"):
            if not isinstance(raw.get(key, ""), str):
                raise ValueError(f"{key} must be a text, got {raw[key]!r}")
        if raw.get("compat") not in (None, "rdt"):
            raise ValueError("compat: " + unknown_name("reference", str(raw["compat"]), ("rdt",)))
        defs = parse_defs(raw.get("defs") or {})
        rate = Rate.parse(raw["fps"], defs)
        action = ActionSpec.parse(raw["action"])
        base = BaseSpec.parse(raw["base"]) if raw.get("base") else BaseSpec()
        context = {"defs": defs, "rate_hz": rate.hz, "compat": raw.get("compat")}
        filters = raw.get("filter") or []
        if not isinstance(filters, list):
            raise ValueError(f"filter is a list of conditions, got {filters!r}")
        mapping = cls(
            name=raw["name"],
            source=SourceSpec.parse(raw["source"]),
            rate=rate,
            state=RuleSet.parse(raw.get("state") or [], "state", **context),
            action=action,
            action_rules=RuleSet.parse(list(action.rules), "action.rules", **context),
            base=base,
            base_rules=RuleSet.parse(list(base.rules), "base.rules", **context),
            cameras=Cameras.parse(raw["cameras"], defs),
            language=Language.parse(raw["language"], defs),
            filters=tuple(Condition.parse(text, defs) for text in filters),
            limits=Limits.parse(raw.get("limits") or {}),
            policies=parse_policies(raw.get("faults") or {}),
            robot=raw.get("robot", "unknown"),
            actor=expand(raw["actor"], defs) if "actor" in raw else None,
            compat=raw.get("compat"),
            notes=raw.get("notes", ""),
        )
        mapping._check()
        if fields is not None:
            mapping.check_fields(fields)
        return mapping

    def _check(self) -> None:
        """What the parts cannot see alone."""
        stateless = self.action.mode == "previous_action_as_state"
        if stateless == bool(self.state):
            raise ValueError(
                f"state rules are {'not used' if stateless else 'needed'} in action mode {self.action.mode}"
            )
        check_disjoint((*(self.action_rules if stateless else self.state), *self.base_rules))
        if self.base.source == "action":
            check_disjoint((*self.action_rules, *self.base_rules))
        filled = self.state.slots()
        for rule in (*self.state, *self.action_rules, *self.base_rules):
            for op in rule.ops:
                if not isinstance(op, DeltaToAbsolute):
                    continue
                if rule not in tuple(self.action_rules) or stateless:
                    raise ValueError(f"{rule.label}: delta_to_absolute needs a state: use it in recorded actions")
                lacking = sorted(set(op.needed_slots()) - filled)
                if lacking:
                    raise ValueError(f"{rule.label}: delta_to_absolute needs state slot {SLOT_NAMES[lacking[0]]}")

    def check_fields(self, fields: abc.Mapping[str, FieldSpec]) -> None:
        """Raise `ValueError` naming rule, field, got and expected for what the source does not have."""
        for rule in self.rules():
            rule.check_field(fields)
        for path in self.cameras.paths():
            if path not in fields:
                pictures = [name for name, spec in fields.items() if spec.kind == "image"]
                raise ValueError("cameras: " + unknown_name("picture field", path, pictures))
            if fields[path].kind != "image":
                raise ValueError(f"cameras: field {path!r} must hold pictures, it is {fields[path].kind}")
        self.language.check_fields(fields)
        if self.actor is not None and self.actor not in fields:
            raise ValueError("actor: " + unknown_name("field", self.actor, fields))
        for condition in self.filters:
            condition.check_field(fields)

    def rules(self) -> tuple:
        """All rules: of the state, the action, the base."""
        return (*self.state, *self.action_rules, *self.base_rules)

    def rules_of_state(self) -> RuleSet:
        """The rules that make the state, save its base."""
        return self.action_rules if self.action.mode == "previous_action_as_state" else self.state

    def paths(self) -> tuple[str, ...]:
        """Every number field that a rule reads, each once: what a source has to deliver."""
        return tuple(dict.fromkeys(r.source.path for r in self.rules() if not r.source.path.startswith(CONST)))

    def syncs(self) -> dict[str, Sync]:
        """How each field that says so is put on the ticks of the clock, by path. Raises `ValueError` for two ways."""
        found: dict[str, Sync] = {}
        for rule in self.rules():
            if rule.sync is not None and found.setdefault(rule.source.path, rule.sync) != rule.sync:
                raise ValueError(f"{rule.label}: field {rule.source.path!r} is synchronised in two ways")
        return found

    def apply(self, raw: RawEpisode) -> list[MappedEpisode | Fault]:
        """A record as an episode in unified units, several where a gap splits it, and what was wrong with it."""
        return apply(self, raw)
