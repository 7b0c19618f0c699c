"""Statistics per slot in one mergeable pass: count, minimum, maximum, mean, standard deviation.

Sums are kept as exact integers (a float32 is a whole multiple of 2**-149), so the result is the same to the
last bit for any order and any division of the work; rounding happens once, at the end. Masked slots do not
count. Quantiles are left out. `published_statistics` gives the form of the published file, whose deviation is taken
over non-zero entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from data_pipeline.schema.layout import NUM_SLOTS

_UNIT_BITS = 173  # sums are in units of 2**-173: 149 for the smallest float32, 24 for its mantissa
_CHUNK_STEPS = 2**14  # squares of 24-bit mantissas, this many of them, fit into int64


@dataclass(frozen=True)
class SlotStats:
    """Finished statistics, each (128,) float64; a slot that was never seen has count 0 and zeros."""

    count: np.ndarray  # int64, steps in which the slot was filled
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray  # of the population: divided by count

    def to_dict(self) -> dict[str, list]:
        """Plain types; `from_dict` gives back every bit."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SlotStats:
        values = {f.name: np.array(raw[f.name], dtype=np.float64) for f in fields(cls)}
        return cls(**{**values, "count": values["count"].astype(np.int64)})


@dataclass(frozen=True)
class Moments:
    """Exact sums over some steps. `a + b` is what one pass over both would have given."""

    count: np.ndarray  # int64 (128,)
    min: np.ndarray  # float64 (128,), inf where nothing was seen
    max: np.ndarray  # float64 (128,), -inf where nothing was seen
    total: np.ndarray  # Python integers (128,), sum of values in units of 2**-173
    squares: np.ndarray  # Python integers (128,), sum of squares in units of 2**-346

    @classmethod
    def zero(cls) -> Moments:
        return cls(
            count=np.zeros(NUM_SLOTS, dtype=np.int64),
            min=np.full(NUM_SLOTS, np.inf),
            max=np.full(NUM_SLOTS, -np.inf),
            total=np.full(NUM_SLOTS, 0, dtype=object),
            squares=np.full(NUM_SLOTS, 0, dtype=object),
        )

    @classmethod
    def of(cls, values: np.ndarray, mask: np.ndarray) -> Moments:
        """Of finite float32 vectors (steps, 128) whose slots count where `mask` (128,) is true."""
        if values.dtype != np.float32 or values.shape[1:] != (NUM_SLOTS,):
            raise ValueError(f"values must be float32 (steps, {NUM_SLOTS}), got {values.dtype} {values.shape}")
        moments = cls.zero()
        if len(values) == 0:
            return moments
        live = values[:, mask]
        moments.count[mask] = len(values)
        moments.min[mask] = live.min(axis=0)
        moments.max[mask] = live.max(axis=0)
        for start in range(0, len(live), _CHUNK_STEPS):
            total, squares = _exact_sums(live[start : start + _CHUNK_STEPS])
            moments.total[mask] += total
            moments.squares[mask] += squares
        return moments

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            count=self.count + other.count,
            min=np.minimum(self.min, other.min),
            max=np.maximum(self.max, other.max),
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    def finish(self) -> SlotStats:
        seen = self.count > 0
        mean, std = np.zeros(NUM_SLOTS), np.zeros(NUM_SLOTS)
        for slot in np.flatnonzero(seen):
            n, total, squares = int(self.count[slot]), self.total[slot], self.squares[slot]
            # quotients of Python integers are correctly rounded, whatever their size
            mean[slot] = total / (n << _UNIT_BITS)
            std[slot] = math.sqrt((n * squares - total * total) / (n * n << 2 * _UNIT_BITS))
        return SlotStats(
            count=self.count,
            min=np.where(seen, self.min, 0.0),
            max=np.where(seen, self.max, 0.0),
            mean=mean,
            std=std,
        )


def published_statistics(name: str, episodes: Iterable[np.ndarray]) -> dict[str, Any]:
    """One entry of the published `dataset_stat.json` (spec rdt.md section 9.4) from states (steps, 128) each.

    Slots that are empty count as zeros here. The deviation is over the nz entries that are not zero, around a mean
    over all n of them: sqrt(max(sum z^2 / nz - (sum z / n)^2 n / nz, 0)), z = 0 where |v| <= 1e-8.
    """
    count, nonzero = 0, np.zeros(NUM_SLOTS)
    total, live_total, live_squares = np.zeros(NUM_SLOTS), np.zeros(NUM_SLOTS), np.zeros(NUM_SLOTS)
    least, most = np.full(NUM_SLOTS, np.inf), np.full(NUM_SLOTS, -np.inf)
    for states in episodes:
        values = np.asarray(states, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != NUM_SLOTS:
            raise ValueError(f"states must be (steps, {NUM_SLOTS}), got {values.shape}")
        if len(values) == 0:
            continue
        live = np.abs(values) > 1e-8
        count += len(values)
        nonzero += live.sum(axis=0)
        total += values.sum(axis=0)
        live_total += np.where(live, values, 0).sum(axis=0)
        live_squares += np.where(live, values * values, 0).sum(axis=0)
        least, most = np.minimum(least, values.min(axis=0)), np.maximum(most, values.max(axis=0))
    if count == 0:
        raise ValueError(f"dataset {name!r} has no steps: there are no statistics of nothing")
    nz = np.maximum(nonzero, 1)
    variance = live_squares / nz - (live_total / count) ** 2 * count / nz
    return {
        "dataset_name": name,
        "state_mean": (total / count).tolist(),
        "state_std": np.sqrt(np.maximum(variance, 0)).tolist(),
        "state_min": least.tolist(),
        "state_max": most.tolist(),
    }


def _exact_sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of values and of squares per column, as Python integers; one integer sum per binary exponent."""
    fraction, exponent = np.frexp(values)
    mantissa = (fraction * np.float32(2**24)).astype(np.int64)  # value = mantissa * 2**(exponent - 24)
    total = np.full(values.shape[1], 0, dtype=object)
    squares = np.full(values.shape[1], 0, dtype=object)
    for e in np.unique(exponent):
        part = np.where(exponent == e, mantissa, 0)
        shift = int(e) - 24 + _UNIT_BITS
        total += part.sum(axis=0).astype(object) << shift
        squares += (part * part).sum(axis=0).astype(object) << 2 * shift
    return total, squares
