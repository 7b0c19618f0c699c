"""pytest tests/data_pipeline/test_stats.py"""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.stats import Moments, SlotStats, published_statistics

MASK = np.zeros(NUM_SLOTS, dtype=bool)
MASK[[0, 7, 60]] = True
live_values = st.integers(1, 20).flatmap(
    lambda steps: arrays(np.float32, (steps, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)


def unified(live: np.ndarray) -> np.ndarray:
    values = np.zeros((len(live), NUM_SLOTS), dtype=np.float32)
    values[:, MASK] = live
    return values


def assert_identical(a: SlotStats, b: SlotStats) -> None:
    assert a.to_dict() == b.to_dict()


@given(live=live_values, order=st.randoms(use_true_random=False), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_any_division_and_order_gives_the_same_bits(live, order, cuts):
    values = unified(live)
    parts = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    order.shuffle(parts)
    merged = sum((Moments.of(part, MASK) for part in parts), start=Moments.zero())
    assert_identical(merged.finish(), Moments.of(values, MASK).finish())


@given(live=live_values)
def test_values_are_the_exactly_rounded_ones(live):
    stats = Moments.of(unified(live), MASK).finish()
    for column, slot in enumerate(np.flatnonzero(MASK)):
        exact = [Fraction(float(v)) for v in live[:, column]]
        mean = sum(exact) / len(exact)
        variance = sum((v - mean) ** 2 for v in exact) / len(exact)
        assert stats.mean[slot] == float(mean)
        assert stats.std[slot] == pytest.approx(float(variance) ** 0.5, rel=1e-15, abs=0)
        assert (stats.min[slot], stats.max[slot]) == (live[:, column].min(), live[:, column].max())
        assert stats.count[slot] == len(exact)


def test_large_passes_agree_with_numpy():
    live = np.random.default_rng(0).normal(5, 1e-3, (40_000, 3)).astype(np.float32)
    stats = Moments.of(unified(live), MASK).finish()
    np.testing.assert_allclose(stats.mean[MASK], live.mean(axis=0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(stats.std[MASK], live.std(axis=0, dtype=np.float64), rtol=1e-9)


def test_masked_slots_do_not_count():
    other = np.zeros(NUM_SLOTS, dtype=bool)
    other[[7, 100]] = True
    ones = np.where(other, np.float32(1), np.float32(0))[None].astype(np.float32)
    stats = (Moments.of(unified(np.full((3, 3), 5.0, np.float32)), MASK) + Moments.of(ones, other)).finish()
    assert [stats.count[s] for s in (0, 7, 100, 1)] == [3, 4, 1, 0]
    assert [stats.mean[s] for s in (0, 7, 100, 1)] == [5, 4, 1, 0]
    assert [stats.min[s] for s in (0, 7, 100, 1)] == [5, 1, 1, 0]


def test_a_constant_slot_has_no_deviation():
    stats = Moments.of(unified(np.full((1000, 3), 0.1, np.float32)), MASK).finish()
    assert stats.std.max() == 0


@given(live=live_values)
def test_json_keeps_every_bit(live):
    stats = Moments.of(unified(live), MASK).finish()
    assert_identical(SlotStats.from_dict(json.loads(json.dumps(stats.to_dict(), allow_nan=False))), stats)


def test_nothing_is_zeros():
    assert not any(np.any(v) for v in Moments.of(unified(np.zeros((0, 3))), MASK).finish().to_dict().values())


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="must be float32"):
        Moments.of(np.zeros((2, NUM_SLOTS)), MASK)


def test_the_published_form_is_about_entries_that_are_not_zero():
    states = np.zeros((4, NUM_SLOTS), dtype=np.float32)
    states[:, 0] = [0, 2, 0, 4]
    states[:, 1] = [-1, -1, -1, -1]
    whole = published_statistics("toy", [states])
    assert whole["dataset_name"] == "toy"
    assert (whole["state_mean"][0], whole["state_min"][0], whole["state_max"][0]) == (1.5, 0, 4)
    # squares over the two live entries, minus the squared mean over all four times 4/2
    assert whole["state_std"][0] == pytest.approx((20 / 2 - 1.5**2 * 4 / 2) ** 0.5)
    assert whole["state_std"][1] == 0 and whole["state_mean"][1] == -1
    assert not any(whole["state_mean"][2:])
    assert published_statistics("toy", [states[:1], states[1:]]) == whole


def test_there_is_no_published_form_of_nothing():
    with pytest.raises(ValueError, match="no steps"):
        published_statistics("toy", [])
    with pytest.raises(ValueError, match=r"\(steps, 128\)"):
        published_statistics("toy", [np.zeros((3, 14))])
