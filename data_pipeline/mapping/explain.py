"""A mapping in words: a table of the slots, then what else it does. Plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from data_pipeline.mapping.mapping import Mapping
from data_pipeline.mapping.ops import Op, Rot
from data_pipeline.mapping.rules import Rule
from data_pipeline.schema.layout import SLOT_NAMES, SLOT_UNITS
from data_pipeline.schema.types import CAMERA_ROLES


def explain(mapping: Mapping) -> str:
    """Slot by slot: number, name, unit, where it comes from and what is done on the way; then the rest."""
    rate = "each record's own" if mapping.rate.hz is None else f"{mapping.rate.hz:g}"
    lines = [
        f"{mapping.name} ({mapping.robot}): {mapping.source.format} {mapping.source.glob}, split "
        f"{mapping.source.split}, {rate} Hz" + (f", compat {mapping.compat}" if mapping.compat else ""),
        "",
        *_table("state", _state_rows(mapping)),
    ]
    if mapping.action_rules:
        rows = _rows(mapping.action_rules, "")
        if mapping.base.source == "action":
            rows += _rows(mapping.base_rules, "")
        lines += ["", *_table(f"action ({mapping.action.mode}, shift {mapping.action.shift})", rows)]
    else:
        lines += ["", "action: the next states, the last one repeated"]
    lines += ["", "cameras:"]
    lines += [f"  {role:<12} {mapping.cameras.roles.get(role, '-')}" for role in CAMERA_ROLES]
    lines += [f"  {'not used':<12} {path}" for path in mapping.cameras.extra]
    lines.append(f"  colour {mapping.source.colour}")
    lines += ["", f"language: {_language(mapping)}"]
    lines += [f"keep when: {condition.text}" for condition in mapping.filters]
    limits = mapping.limits
    still = "kept" if limits.still_lead_eps is None else f"cut (eps {limits.still_lead_eps:g})"
    lines.append(
        f"limits: at least {limits.min_length} steps, {limits.max_steps or 'all'} a visit, still start {still}"
    )
    lines.append("faults: " + ", ".join(f"{name} {policy}" for name, policy in mapping.policies.items()))
    quirks = [rule.label for rule in mapping.rules() if rule.quirks]
    if quirks:
        verb = "read as published" if mapping.compat else "read differently under compat: rdt"
        lines.append(f"{verb}: {', '.join(quirks)}")
    if mapping.notes:
        lines.append(f"notes: {mapping.notes}")
    return "\n".join(lines) + "\n"


def _state_rows(mapping: Mapping) -> list[tuple[int, str]]:
    stateless = mapping.action.mode == "previous_action_as_state"
    rows = _rows(mapping.rules_of_state(), " of step t - 1, 0 at first" if stateless else "")
    lag = mapping.base.lag
    return sorted(rows + _rows(mapping.base_rules, f" of step t - {lag}, 0 at first" if lag else ""))


def _rows(rules: Iterable[Rule], remark: str) -> list[tuple[int, str]]:
    rows = []
    for rule in rules:
        ops = "".join(f" -> {_op(op)}" for op in rule.ops)
        conditions = f" if {rule.when_dim} numbers" if rule.when_dim is not None else ""
        conditions += " if there is one" if rule.optional else ""
        conditions += f" ({rule.sync.how}, at most {rule.sync.max_age_s:g} s old)" if rule.sync else ""
        if any(op.width(None) is not None for op in rule.ops):  # numbers are mixed: a slot has no single source
            texts = [f"{rule.source}{ops} number {i}" for i in range(len(rule.slots))]
        else:
            texts = [f"{rule.source.one(i)}{ops}" for i in range(len(rule.slots))]
        rows += [(slot, f"{text}{conditions}{remark}") for slot, text in zip(rule.slots, texts, strict=True)]
    return sorted(rows)


def _table(title: str, rows: list[tuple[int, str]]) -> list[str]:
    wide = max(len(SLOT_NAMES[slot]) for slot, _ in rows)
    unit = max(len(SLOT_UNITS[slot]) for slot, _ in rows)
    return [f"{title}:"] + [
        f"  {slot:>3}  {SLOT_NAMES[slot]:<{wide}}  {SLOT_UNITS[slot]:<{unit}}  {text}" for slot, text in rows
    ]


def _op(op: Op) -> str:
    if isinstance(op, Rot):
        details = {"quat": (op.order,), "euler": (op.seq, op.frame), "axis_angle": ()}.get(op.form, (op.layout,))
        return f"rot({', '.join((op.form, *details))})"
    values = [f"{value:g}" if isinstance(value, float) else str(value) for value in vars(op).values()]
    return f"{op.name}({', '.join(values)})" if values else op.name


def _language(mapping: Mapping) -> str:
    language = mapping.language
    if language.constant is not None:
        return repr(language.clean(language.constant))
    paths = ", ".join(f.path if f.index is None else f"{f.path}[{f.index}]" for f in language.fields)
    return f"{language.choose} of {paths}" + (", dropped if empty" if language.drop_if_empty else "")
