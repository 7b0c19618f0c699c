"""Run: pytest tests/deploy/test_intervals.py"""

import pytest

from deploy.intervals import bootstrap_interval, mean_interval, paired_difference_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"), [(50, 50, 0.93, 1.0), (42, 50, 0.71, 0.92), (41, 50, 0.69, 0.90)]
)
def test_intervals_are_those_of_wilson(successes, episodes, low, high):
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=0.006)


def test_equal_results_differ_by_little_when_there_are_many():
    assert paired_difference_interval([True] * 200, [True] * 200) == pytest.approx((-0.0097, 0.0097), abs=1e-4)
    low, high = paired_difference_interval([True] * 2, [True] * 2)
    assert low < -0.3 < 0.3 < high  # two scenes say next to nothing


def test_pairing_narrows_the_interval():
    """95 of 100 against 93 of 100, of which all but two scenes agree."""
    first = [i >= 5 for i in range(100)]
    second = [i >= 7 for i in range(100)]
    low, high = paired_difference_interval(first, second)
    assert -0.06 < low < -0.02 < high < 0.02
    shuffled_low, _ = paired_difference_interval(first, second[::-1])
    assert shuffled_low < low


def test_swapping_the_two_turns_the_sign():
    first, second = [True, True, False, True], [True, False, False, False]
    low, high = paired_difference_interval(first, second)
    assert paired_difference_interval(second, first) == pytest.approx((-high, -low))


def test_a_mean_of_a_few_runs_lies_in_its_interval_and_one_run_has_none():
    low, high = bootstrap_interval([0.1, 0.4, 0.2, 0.3, 0.5])
    assert 0.1 < low < 0.3 < high < 0.5
    assert bootstrap_interval([0.2] * 5) == pytest.approx((0.2, 0.2))
    assert bootstrap_interval([0.2]) is None


def test_the_mean_of_a_few_values_is_as_unsure_as_students_t_says():
    low, high = mean_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), rel=1e-3)
    assert mean_interval([7.0]) == (7.0, 7.0)
