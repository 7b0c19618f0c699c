"""Run: pytest tests/rdt/alignment/test_imitation_metrics.py"""

import numpy as np
import pytest

from rdt.alignment.imitation_metrics import (
    area_under,
    detrended_std,
    normalised,
    oscillation_range,
    scale_of,
    sliced_wasserstein_1,
    updates_to_level,
    updates_to_share_of_best,
)

UPDATES = np.arange(0, 2000, 100)


def test_the_expert_is_one_and_chance_is_zero():
    assert normalised(np.array([-1200.0, -700.0, -200.0]), -1200, -200).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="must exceed the random policy's"):
        normalised(np.array([1.0]), 5, 5)


def test_share_of_best_counts_from_the_runs_own_best():
    rising = np.linspace(0, 1, 20)
    assert updates_to_share_of_best(UPDATES, rising) == 1900  # 0.947 is not yet enough
    assert updates_to_share_of_best(UPDATES, rising / 3) == 1900
    assert updates_to_share_of_best(UPDATES, np.minimum(rising, 0.5)) == 1000


def test_a_level_must_hold_for_three_evaluations():
    n = np.zeros(20)
    n[[3, 4, 8, 9, 10]] = 0.95
    assert updates_to_level(UPDATES, n) == 800
    assert updates_to_level(UPDATES, n, running=2) == 300
    assert updates_to_level(UPDATES, np.full(20, 0.8)) == float("inf")


def test_area_of_a_step_and_of_the_expert():
    assert area_under(UPDATES, np.ones(20)) == pytest.approx(1)
    assert area_under(np.array([0, 100, 300]), np.array([0.0, 1.0, 1.0])) == pytest.approx(250 / 300)


def test_oscillation_looks_at_the_last_quarter_only():
    n = np.ones(20)
    n[:15] = np.random.default_rng(0).random(15)
    assert oscillation_range(n) == 0 and detrended_std(n) == pytest.approx(0, abs=1e-12)
    n[-5:] = [0.5, 1.0, 0.5, 1.0, 0.5]
    assert 0.45 < oscillation_range(n) <= 0.5
    assert detrended_std(n) > 0.2


def test_a_steady_rise_has_a_range_and_no_swing():
    n = np.linspace(0, 1, 20)
    assert oscillation_range(n) > 0.1
    assert detrended_std(n) == pytest.approx(0, abs=1e-12)


def test_distance_of_two_sets():
    generator = np.random.default_rng(1)
    x = generator.standard_normal((2000, 3)) * [1, 5, 0.1]
    scale = scale_of(x)
    assert sliced_wasserstein_1(x, generator.permutation(x), scale) == pytest.approx(0, abs=1e-12)
    floor = sliced_wasserstein_1(x, generator.standard_normal((2000, 3)) * [1, 5, 0.1], scale)
    shifted = x + 2 * scale * [1, 0, 0]
    assert floor < 0.1 < sliced_wasserstein_1(x, shifted, scale)
    # E |2 cos| of a direction in three dimensions is 1
    assert sliced_wasserstein_1(x, shifted, scale) == pytest.approx(1, abs=0.1)


def test_an_entry_that_never_moves_does_not_divide_by_zero():
    assert scale_of(np.array([[1.0, 0.0], [3.0, 0.0]])).tolist() == [1, 1]


def test_sets_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        sliced_wasserstein_1(np.zeros((3, 2)), np.zeros((4, 2)), np.ones(2))
