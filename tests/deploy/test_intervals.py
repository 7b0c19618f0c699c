"""Run: pytest tests/deploy/test_intervals.py"""

import pytest

from deploy.intervals import wilson_interval


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"), [(50, 50, 0.93, 1.0), (42, 50, 0.71, 0.92), (41, 50, 0.69, 0.90)]
)
def test_intervals_are_those_of_wilson(successes, episodes, low, high):
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=0.006)
