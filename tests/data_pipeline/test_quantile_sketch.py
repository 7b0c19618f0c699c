"""Bounds, merging and order of the quantile sketch. Run: pytest tests/data_pipeline/test_quantile_sketch.py"""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_pipeline.quantile_sketch import RELATIVE_ERROR, QuantileSketch, rank
from data_pipeline.schema.layout import NUM_SLOTS

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
COLUMNS = arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS)
SHARES = st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0])


def vectors(column: np.ndarray, slot: int = 3) -> tuple[np.ndarray, np.ndarray]:
    values, mask = np.zeros((len(column), NUM_SLOTS), dtype=np.float32), np.zeros(NUM_SLOTS, dtype=bool)
    values[:, slot], mask[slot] = column, True
    return values, mask


def equal(one: QuantileSketch, other: QuantileSketch) -> bool:
    return np.array_equal(one.keys, other.keys) and np.array_equal(one.counts, other.counts)


@given(COLUMNS, SHARES)
def test_the_stated_bound(column, q):
    exact = float(np.sort(column)[rank(q, len(column)) - 1])
    found = QuantileSketch.of(*vectors(column)).quantile(q)[3]
    assert abs(found) <= abs(exact) and abs(found - exact) < max(RELATIVE_ERROR * abs(exact), 1e-45)


@given(COLUMNS, st.lists(st.integers(0, 60), max_size=4), st.randoms())
def test_any_division_and_order_gives_the_same_bits(column, cuts, random):
    values, mask = vectors(column)
    parts = [QuantileSketch.of(part, mask) for part in np.split(values, sorted(min(c, len(column)) for c in cuts))]
    random.shuffle(parts)
    assert equal(reduce(add, parts, QuantileSketch.zero()), QuantileSketch.of(values, mask))


def test_short_fractions_are_exact_and_zeros_are_one():
    column = np.array([-1.5, -0.0, 0.0, 0.5, 1.0], dtype=np.float32)
    sketch = QuantileSketch.of(*vectors(column))
    assert [sketch.quantile(q)[3] for q in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)] == [-1.5, -1.5, 0.0, 0.0, 0.5, 1.0]
    assert len(sketch.keys) == 4


def test_slots_do_not_mix_and_masked_ones_do_not_count():
    rng = np.random.default_rng(0)
    values, mask = rng.normal(0, 1, (500, NUM_SLOTS)).astype(np.float32), np.arange(NUM_SLOTS) % 3 == 0
    found = QuantileSketch.of(values, mask).quantile(0.9)
    assert not found[~mask].any()
    exact = np.sort(values, axis=0)[rank(0.9, 500) - 1]
    np.testing.assert_allclose(found[mask], exact[mask], rtol=RELATIVE_ERROR)


def test_ranks_are_exact():
    assert [rank(0.01, 100), rank(0.2, 5), rank(0.99, 100), rank(0.1, 10**9)] == [1, 1, 99, 10**8]
    assert [rank(0.5, 4), rank(0.5, 5), rank(0.0, 9), rank(1.0, 9), rank(0.25, 2**60)] == [2, 3, 1, 9, 2**58]


def test_wrong_input():
    with pytest.raises(ValueError, match="float32"):
        QuantileSketch.of(np.zeros((3, NUM_SLOTS)), np.ones(NUM_SLOTS, dtype=bool))
    with pytest.raises(ValueError, match="share"):
        QuantileSketch.zero().quantile(1.5)
    assert not QuantileSketch.zero().quantile(0.5).any()
