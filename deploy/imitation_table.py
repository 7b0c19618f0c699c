"""Figures of a method over its seeds, and of a controlled method against the same seeds without the controller."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.intervals import bootstrap_interval
from deploy.plots import Band
from rdt.alignment.imitation_metrics import (
    area_under,
    detrended_std,
    last_part,
    oscillation_range,
    updates_to_level,
    updates_to_share_of_best,
)

Record = Mapping[str, Any]
"""Of one run: what `deploy.imitation_runs.record_of` returns."""


ENOUGH_SEEDS = 5


@dataclass(frozen=True)
class Figure:
    """A number of a run, by its evaluations."""

    label: str
    of: Callable[[Record], float]
    form: str = ".3f"
    needs_curve: bool = True  # behaviour cloning has one point


def column(record: Record, key: str) -> np.ndarray:
    return np.array([point[key] for point in record["curve"]], dtype=float)


def _solved(record: Record) -> float:
    """Censored: a run that never gets there counts as its whole budget."""
    updates = column(record, "updates")
    return min(updates_to_level(updates, column(record, "n")), float(updates[-1]))


def _last_loss(key: str) -> Callable[[Record], float]:
    def of(record: Record) -> float:
        seen = [point["losses"].get(key, math.nan) for point in record["curve"]]
        return float(np.mean(last_part(np.array(seen))))

    return of


FIGURES = (
    Figure("n at the end", lambda r: column(r, "n")[-1], needs_curve=False),
    Figure("n, mean of last quarter", lambda r: last_part(column(r, "n")).mean()),
    Figure("area under n", lambda r: area_under(column(r, "updates"), column(r, "n"))),
    Figure("updates to 95 % of best", lambda r: updates_to_share_of_best(column(r, "updates"), column(r, "n")), ".0f"),
    Figure("updates to n >= 0.9, thrice", _solved, ".0f"),
    Figure("oscillation P95 - P5", lambda r: oscillation_range(column(r, "n"))),
    Figure("std around a line", lambda r: detrended_std(column(r, "n"))),
    Figure("SW1 of states, at the end", lambda r: column(r, "wasserstein")[-1], needs_curve=False),
    Figure("D on policy, last quarter", _last_loss("D_policy")),
    Figure("D on expert, last quarter", _last_loss("D_expert")),
    Figure("|D - 1/2|, last quarter", _last_loss("D_apart")),
    Figure("CPU seconds", lambda r: r["cpu_seconds"], ".0f", needs_curve=False),
)


def figures_of(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Label -> values over seeds with mean and interval, where the method has the figure."""
    found = {}
    for figure in FIGURES:
        if figure.needs_curve and any(len(record["curve"]) < 3 for record in records):
            continue
        values = [float(figure.of(record)) for record in records]
        if not any(math.isnan(value) for value in values):
            found[figure.label] = summary(values)
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    return {"values": list(values), "mean": float(np.mean(values)), "interval": bootstrap_interval(values)}


def paired(controlled: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Controlled minus baseline, seed by seed."""
    return {
        label: summary(np.subtract(controlled[label]["values"], baseline[label]["values"]).tolist())
        for label in controlled
        if label in baseline
    }


def leaves_out_zero(difference: Mapping[str, Any]) -> bool:
    """Of a paired difference over enough seeds: of two that agree any interval does."""
    if len(difference["values"]) < ENOUGH_SEEDS:
        return False
    low, high = difference["interval"]
    return low > 0 or high < 0


def lines_of_table(columns: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a figure: mean and 95 % interval of each method, then the paired differences; * leaves zero out."""
    names = [*columns, *differences]
    width = max(26, *(len(name) + 2 for name in names))
    lines = [f"{'':28s}" + "".join(f"{name:>{width}s}" for name in names)]
    for figure in FIGURES:
        cells = [_cell(columns[name].get(figure.label), figure.form) for name in columns]
        cells += [_cell(differences[name].get(figure.label), "+" + figure.form, mark=True) for name in differences]
        lines.append(f"{figure.label:28s}" + "".join(f"{cell:>{width}s}" for cell in cells))
    return lines


def _cell(value: Mapping[str, Any] | None, form: str, *, mark: bool = False) -> str:
    if value is None:
        return "-"
    if value["interval"] is None:
        return f"{value['mean']:{form}}"
    low, high = value["interval"]
    star = "*" if mark and leaves_out_zero(value) else ""
    return f"{value['mean']:{form}} [{low:{form}}, {high:{form}}]{star}"


def band_of(label: str, records: Sequence[Record]) -> Band:
    """Mean of n over the seeds at each evaluation, in the band from the least to the greatest."""
    n = np.stack([column(record, "n") for record in records])
    updates = column(records[0], "updates")
    return Band(label, updates.tolist(), n.mean(axis=0).tolist(), n.min(axis=0).tolist(), n.max(axis=0).tolist())
