"""`rdt data stats`: statistics of each slot of native stores, in one pass that any number of processes may share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.atomic import write_json
from data_pipeline.quantile_sketch import RELATIVE_ERROR, QuantileSketch
from data_pipeline.schema.layout import SLOT_NAMES
from data_pipeline.selection import find_stores
from data_pipeline.stats import Moments, published_statistics
from data_pipeline.storage import EpisodeStore
from data_pipeline.workers import run_as_completed

Kind = Literal["state", "action"]
KINDS: tuple[Kind, ...] = ("state", "action")
SHARES = {"q01": 0.01, "q50": 0.5, "q99": 0.99}

_EPISODES_A_JOB = 64  # the same for any number of workers


@dataclass(frozen=True)
class SlotSums:
    """What is known of some episodes. `a + b` is what one pass over both would have given, to the last bit."""

    moments: Moments
    sketch: QuantileSketch

    @classmethod
    def zero(cls) -> SlotSums:
        return cls(Moments.zero(), QuantileSketch.zero())

    def __add__(self, other: SlotSums) -> SlotSums:
        return SlotSums(self.moments + other.moments, self.sketch + other.sketch)

    def table(self) -> dict[str, dict[str, float]]:
        """Slot name -> its statistics, of slots that were seen."""
        finished = self.moments.finish()
        columns = {"min": finished.min, "max": finished.max, "mean": finished.mean, "std": finished.std}
        columns |= {name: self.sketch.quantile(share) for name, share in SHARES.items()}
        return {
            SLOT_NAMES[slot]: {
                "count": int(finished.count[slot]),
                **{name: float(values[slot]) for name, values in columns.items()},
            }
            for slot in np.flatnonzero(finished.count)
        }


@dataclass(frozen=True)
class Job:
    """Some episodes of a store."""

    store: Path
    kind: Kind
    start: int
    stop: int


def command(args: argparse.Namespace) -> None:
    stores = list(dict.fromkeys(store for path in args.paths for store in find_stores(path)))
    tables = {
        store: {kind: sums.table() for kind, sums in of.items()} for store, of in measure(stores, args.workers).items()
    }
    for store, kinds in tables.items():
        print("\n".join(describe(store, kinds)))
    print(f"quantiles are rounded towards zero by less than {RELATIVE_ERROR:.2%} of themselves; all else is exact")
    if args.json:
        content = {"stores": {str(store): kinds for store, kinds in tables.items()}, "quantile_error": RELATIVE_ERROR}
        write_json(args.json, content)
    if args.published:
        write_json(args.published, {name: published_statistics(name, states) for name, states in _named_states(stores)})


def measure(stores: list[Path], workers: int) -> dict[Path, dict[Kind, SlotSums]]:
    """Sums of each store's states and actions; `workers` change the time it takes and nothing else."""
    jobs = [
        Job(path, kind, start, min(start + _EPISODES_A_JOB, count))
        for path in stores
        for count in [len(EpisodeStore.open(path))]
        for kind in KINDS
        for start in range(0, count, _EPISODES_A_JOB)
    ]
    sums: dict[Path, dict[Kind, SlotSums]] = {path: {kind: SlotSums.zero() for kind in KINDS} for path in stores}
    for job, part in run_as_completed(_sum, None, jobs, workers):
        sums[job.store][job.kind] += part
    return sums


def describe(store: Path, kinds: dict[Kind, dict[str, dict[str, float]]]) -> Iterator[str]:
    """A table for people."""
    columns = ("min", "max", "mean", "std", *SHARES)
    for kind, table in kinds.items():
        yield f"{store}, {kind}: {len(table)} slots"
        if table:
            yield f"  {'slot':30s} {'count':>9s} " + " ".join(f"{name:>10s}" for name in columns)
        for name, of in table.items():
            yield f"  {name:30s} {of['count']:9d} " + " ".join(f"{of[column]:10.4g}" for column in columns)


def _sum(_shared: Any, job: Job) -> SlotSums:
    store, sums = _opened(job.store), SlotSums.zero()
    for index in range(job.start, job.stop):
        episode = store[index]
        values = episode.states if job.kind == "state" else episode.actions
        mask = episode.state_mask if job.kind == "state" else episode.action_mask
        sums += SlotSums(Moments.of(values, mask), QuantileSketch.of(values, mask))
    return sums


@lru_cache(maxsize=8)
def _opened(path: Path) -> EpisodeStore:
    """Once a process."""
    return EpisodeStore.open(path)


def _named_states(stores: list[Path]) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
    """(name of the dataset, states of its episodes). Raises `ValueError` for two stores of one name."""
    names = [path.resolve().name for path in stores]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"--published names its entries by folder, and two stores are named {twice[0]!r}: rename one")
    for name, path in zip(names, stores, strict=True):
        yield name, (episode.states for episode in EpisodeStore.open(path))
