"""What only the episodes of a dataset together show: copies, lengths, rates, tasks, slots that never move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from data_pipeline.validate.findings import Finding, Severity, Where
from data_pipeline.validate.records import GRIPPER, Record

WILD_RATIO = 10.0  # of a length to the median
MIN_STEPS = 32  # the reference's shortest episode
RATES_DIFFER = 0.01
CONSTANT = 1e-6  # the range below which a normaliser would divide by nothing (interop.md 3.2)
NEVER_OPENS = 0.05
KINDS = ("state", "action")
MANY = 3  # episodes that say something about all


@dataclass(frozen=True)
class Seen:
    """What is remembered of one episode."""

    name: str
    task: str
    num_steps: int
    digest: str
    rate_hz: float | None
    texts: tuple[str, ...]
    ranges: dict[tuple[str, str], tuple[float, float]]  # ("state", name) -> smallest and largest
    units: dict[tuple[str, str], str]


def remember(record: Record) -> Seen:
    ranges: dict[tuple[str, str], tuple[float, float]] = {}
    units: dict[tuple[str, str], str] = {}
    for kind, columns in (("state", record.state), ("action", record.action)):
        if len(columns.values) and columns.names:
            low, high = columns.values.min(axis=0).tolist(), columns.values.max(axis=0).tolist()
            ranges |= {(kind, name): (low[i], high[i]) for i, name in enumerate(columns.names)}
            units |= {(kind, name): columns.units[i] for i, name in enumerate(columns.names)}
    return Seen(record.name, record.task, record.num_steps, record.digest, record.rate_hz, record.texts, ranges, units)


def check_across(seen: Sequence[Seen]) -> Iterator[Finding]:
    """All checks of this file."""
    if not seen:
        return
    yield from _duplicates(seen)
    yield from _lengths(seen)
    yield from _rates(seen)
    yield from _tasks(seen)
    yield from _columns(seen)
    yield from _masks(seen)


def _duplicates(seen: Sequence[Seen]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for one in seen:
        original = first.setdefault(one.digest, one.name)
        if original != one.name:
            yield Finding(
                "warning",
                "duplicate",
                Where(episode=one.name),
                "episodes of their own",
                f"states and actions equal those of {original}",
                "leave the copy out: it counts twice in training and leaks into a held-out part",
            )


def _lengths(seen: Sequence[Seen]) -> Iterator[Finding]:
    for one in seen:
        if one.num_steps < MIN_STEPS:
            yield Finding(
                "warning",
                "too_short",
                Where(episode=one.name),
                f"at least {MIN_STEPS} steps",
                f"{one.num_steps}",
                "leave it out: it holds less than half an action chunk",
            )
    usual = median(one.num_steps for one in seen)
    wild = [one for one in seen if one.num_steps > WILD_RATIO * usual or WILD_RATIO * one.num_steps < usual]
    if wild and len(seen) >= MANY:
        yield Finding(
            "note",
            "lengths_vary",
            Where(episode=wild[0].name),
            f"lengths within {WILD_RATIO:g} times the median, {usual:g} steps",
            f"{len(wild)} of {len(seen)} episodes are not, the first has {wild[0].num_steps}",
            "a recording that was not stopped, or was stopped at once: look at it",
        )


def _rates(seen: Sequence[Seen]) -> Iterator[Finding]:
    rates = [one.rate_hz for one in seen if one.rate_hz is not None]
    if rates and max(rates) > (1 + RATES_DIFFER) * min(rates):
        odd = next(one for one in seen if one.rate_hz is not None and one.rate_hz != rates[0])
        yield Finding(
            "note",
            "rates_differ",
            Where(episode=odd.name),
            "one rate",
            f"{min(rates):.4g} to {max(rates):.4g} Hz",
            "the rate is a condition of the policy, so this works; other tools assume one",
        )


def _tasks(seen: Sequence[Seen]) -> Iterator[Finding]:
    """One sentence for all, though folders tell several tasks."""
    tasks = {one.task for one in seen}
    texts = {one.texts for one in seen}
    if len(tasks) > 1 and len(texts) == 1 and any(text.strip() for text in next(iter(texts))):
        yield Finding(
            "note",  # folders may be days as well as tasks
            "same_instruction",
            Where(episode=seen[0].name),
            f"an instruction for each of {len(tasks)} tasks ({', '.join(sorted(tasks)[:3])})",
            f"all {len(seen)} episodes say {next(iter(texts))[0]!r}",
            "write an instruction for each task",
        )


def _columns(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Slots that hold one number in all episodes, and grippers that never open or close."""
    known = dict.fromkeys(key for one in seen for key in one.ranges)
    still, alive = [], 0
    for key in known:
        low = min(one.ranges[key][0] for one in seen if key in one.ranges)
        high = max(one.ranges[key][1] for one in seen if key in one.ranges)
        unit = next(one.units[key] for one in seen if key in one.units)
        if unit == GRIPPER and CONSTANT < high - low < NEVER_OPENS:
            yield _column(key, "warning", "gripper_still", f"a gripper that opens, not {low:.3g} .. {high:.3g}", seen)
        if high - low <= CONSTANT * max(1.0, abs(low)):
            still.append((key, low))
        else:
            alive += 1
    if alive:  # else nothing moves at all, and each episode says so
        for key, value in still:
            known_unit = next(one.units[key] for one in seen if key in one.units)
            severity: Severity = "warning" if known_unit else "note"  # a file has fields that nobody uses
            yield _column(key, severity, "constant", f"a column that changes, not {value:.4g} everywhere", seen)
    half = [one for one in seen if set(one.ranges) != set(known)]
    if half:
        lacking = sorted(set(known) - set(half[0].ranges))
        yield Finding(
            "warning",
            "columns_differ",
            Where(episode=half[0].name),
            "the same slots in all episodes",
            f"{len(half)} of {len(seen)} lack some, the first {', '.join(name for _, name in lacking[:3])}",
            "recordings of different robots or sensors: give each a dataset of its own, or `optional: true`",
        )


def _masks(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Actions of other slots than the state's are allowed and easily a mistake; each way is told once."""
    ways: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Seen]] = {}
    for one in seen:
        slots = {kind: [name for k, name in one.ranges if k == kind and one.units[k, name]] for kind in KINDS}
        lacking = tuple(name for name in slots["state"] if name not in slots["action"])
        more = tuple(name for name in slots["action"] if name not in slots["state"])
        if slots["action"] and (lacking or more):
            ways.setdefault((lacking, more), []).append(one)
    for (lacking, more), members in ways.items():
        parts = [f"without {_few(lacking)}"] if lacking else []
        parts += [f"with {_few(more)}, which the state lacks"] if more else []
        yield Finding(
            "note",
            "masks_differ",
            Where(episode=members[0].name),
            "action slots like the state's",
            f"actions {' and '.join(parts)}, in {len(members)} of {len(seen)} episodes",
            "add rules for these slots, or leave it so if the robot has no such command",
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _column(key: tuple[str, str], severity: Severity, kind: str, told: str, seen: Sequence[Seen]) -> Finding:
    expected, _, found = told.partition(", not ")
    return Finding(
        severity,
        kind,
        Where(episode=seen[0].name, column=" ".join(key)),
        expected,
        f"{found} in {len(seen)} episodes" if len(seen) > 1 else found,
        "a dead sensor or a wrong index in the rule; if it is meant, leave the slot out, for it teaches nothing",
    )


def spread(indices: int, most: int | None) -> list[int]:
    """All of them, or so many evenly spread ones, the first and last among them."""
    if most is None or most >= indices:
        return list(range(indices))
    return sorted({round(i) for i in np.linspace(0, indices - 1, most)})
