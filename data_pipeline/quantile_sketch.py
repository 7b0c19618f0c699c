"""Quantiles per slot in one mergeable pass: counts of the leading bits of each float32.

The bits of a float32, read as an integer with the sign folded in, stand in the order of the numbers. Of these 32 the
lower `CUT_BITS` are dropped; what remains is counted. Merging adds counts, so the sketch of a whole is the same to
the last bit for any order and any division of the work. Masked slots do not count.

A quantile is the value of rank ceil(q n) among n (of a sorted array, without interpolation), rounded towards zero to
the leading bits: never larger than the exact one, and less than 2**(CUT_BITS - 23) of it smaller (0.05 %), for normal
float32 numbers. Zero, halves, ones and other short binary fractions come back exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from data_pipeline.schema.layout import NUM_SLOTS

CUT_BITS = 12
RELATIVE_ERROR = 2.0 ** (CUT_BITS - 23)
_SLOT_SHIFT = 32 - CUT_BITS
_SIGN, _ALL = np.uint32(1 << 31), np.uint32(2**32 - 1)


@dataclass(frozen=True)
class QuantileSketch:
    """Counts of (slot, leading bits). `a + b` is what one pass over both would have given."""

    keys: np.ndarray  # int64 (n,), ascending: slot * 2**(32 - CUT_BITS) + leading bits
    counts: np.ndarray  # int64 (n,), each 1 or more

    @classmethod
    def zero(cls) -> QuantileSketch:
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, values: np.ndarray, mask: np.ndarray) -> QuantileSketch:
        """Of finite float32 vectors (steps, 128) whose slots count where `mask` (128,) is true."""
        if values.dtype != np.float32 or values.shape[1:] != (NUM_SLOTS,):
            raise ValueError(f"values must be float32 (steps, {NUM_SLOTS}), got {values.dtype} {values.shape}")
        slots = np.flatnonzero(mask)
        leading = (_ordered(values[:, slots]) >> np.uint32(CUT_BITS)).astype(np.int64)
        keys, counts = np.unique(leading + (slots.astype(np.int64) << _SLOT_SHIFT), return_counts=True)
        return cls(keys, counts.astype(np.int64))

    def __add__(self, other: QuantileSketch) -> QuantileSketch:
        keys, places = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros(len(keys), dtype=np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return QuantileSketch(keys, counts)

    def quantile(self, q: float) -> np.ndarray:
        """float64 (128,); 0 in slots that were never seen."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is of a share in [0, 1], got {q}")
        found = np.zeros(NUM_SLOTS)
        bounds = np.searchsorted(self.keys, np.arange(NUM_SLOTS + 1, dtype=np.int64) << _SLOT_SHIFT)
        for slot in np.flatnonzero(np.diff(bounds)):
            part = slice(bounds[slot], bounds[slot + 1])
            totals = np.cumsum(self.counts[part])
            at = int(np.searchsorted(totals, rank(q, int(totals[-1]))))
            found[slot] = _value(int(self.keys[part][at]) & ((1 << _SLOT_SHIFT) - 1))
        return found


def rank(q: float, count: int) -> int:
    """Which of `count` sorted values, from 1 on, is the q-quantile; q is the decimal number that it is written as."""
    return max(1, math.ceil(Fraction(str(q)) * count))


def _ordered(values: np.ndarray) -> np.ndarray:
    """uint32 in the order of the numbers; both zeros are one."""
    bits = np.ascontiguousarray(values + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, bits ^ _ALL, bits | _SIGN)


def _value(leading: int) -> float:
    """The number of these leading bits that is nearest to zero."""
    lower = (1 << CUT_BITS) - 1
    ordered = leading << CUT_BITS
    positive = ordered >> 31
    bits = ordered ^ 1 << 31 if positive else (ordered | lower) ^ 0xFFFFFFFF
    return float(np.array(bits, dtype=np.uint32).view(np.float32))
