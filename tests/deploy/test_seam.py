"""Run: pytest tests/deploy/test_seam.py"""

import numpy as np
import pytest

from deploy.seam import seam

T = 0.02


def test_a_straight_line_has_no_seam():
    line = np.outer(np.arange(20) * T, [1.0, -2.0])
    assert seam(line, [5, 11], T) == pytest.approx((0, 0), abs=1e-9)


def test_a_step_of_velocity_is_found_where_it_is():
    """Still until row 9, then 0.5 units/s from row 10 on: v_10 - v_9."""
    positions = np.maximum(np.arange(20) - 9, 0)[:, None] * 0.5 * T
    assert seam(positions, [10], T) == pytest.approx((0.5, 0.5 / T))
    assert seam(positions, [6, 14], T) == pytest.approx((0, 0), abs=1e-9)


def test_a_step_of_acceleration_has_no_step_of_velocity():
    """From rest with 3 units/s^2: velocity changes by what one tick of it gives."""
    steps = np.maximum(np.arange(20) - 9, 0) * 3.0 * T**2
    assert seam(np.cumsum(steps)[:, None], [10], T) == pytest.approx((3 * T, 3.0))


def test_the_worst_entry_and_the_worst_hand_over_count():
    positions = np.zeros((30, 2))
    positions[10:, 0] = np.arange(20) * T * 0.1
    positions[20:, 1] = np.arange(1, 11) * T * 0.4
    assert seam(positions, [10, 20], T).velocity == pytest.approx(0.4)


@pytest.mark.parametrize("handovers", [[], [0, 1, 2], [9]])
def test_hand_overs_at_the_ends_tell_nothing(handovers):
    assert seam(np.random.default_rng(0).normal(size=(10, 3)), handovers, T) == (0, 0)
