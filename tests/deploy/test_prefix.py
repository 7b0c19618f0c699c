"""A plan on another chunk's time grid.

Run: pytest tests/deploy/test_prefix.py
"""

import numpy as np
import pytest

from data_pipeline.schema.types import ActionChunk
from deploy.prefix import Prefix, align

MS = 1_000_000
MASK = np.arange(128) < 2


def chunk(start_ns=0, rate_hz=25.0, horizon=8):
    """Row k holds k in slot 0 and -k in slot 1."""
    actions = np.zeros((horizon, 128), dtype=np.float32)
    actions[:, 0] = np.arange(horizon)
    actions[:, 1] = -np.arange(horizon)
    return ActionChunk(start_ns, rate_hz, actions, MASK)


def test_on_the_same_grid_rows_move_up_and_the_end_is_unknown():
    rows, known = align(chunk(), start_ns=120 * MS, rate_hz=25.0, horizon=8)
    assert rows[:, 0].tolist() == [3, 4, 5, 6, 7, 0, 0, 0]
    assert known.tolist() == [True] * 5 + [False] * 3
    assert rows.dtype == np.float32 and (rows[:, 1] == -rows[:, 0]).all()


def test_between_two_rows_is_on_the_line_between_them():
    rows, known = align(chunk(), start_ns=130 * MS, rate_hz=25.0, horizon=6)
    assert rows[:, 0] == pytest.approx([3.25, 4.25, 5.25, 6.25, 0, 0])
    assert known.sum() == 4


def test_another_rate_is_resampled():
    rows, known = align(chunk(), start_ns=40 * MS, rate_hz=50.0, horizon=16)
    assert rows[:13, 0] == pytest.approx(1 + 0.5 * np.arange(13))
    assert known.tolist() == [True] * 13 + [False] * 3


def test_rows_before_its_first_are_unknown():
    rows, known = align(chunk(start_ns=80 * MS), start_ns=0, rate_hz=25.0, horizon=5)
    assert known.tolist() == [False, False, True, True, True]
    assert rows[:, 0].tolist() == [0, 0, 0, 1, 2]


def test_a_rounded_stamp_is_still_on_the_grid():
    rate_hz = 30.0  # a step is 33333333.3 ns
    rows, known = align(chunk(rate_hz=rate_hz), start_ns=7 * 33_333_333, rate_hz=rate_hz, horizon=1)
    assert rows[0, 0] == 7 and known.tolist() == [True]
    rows, known = align(chunk(start_ns=1), start_ns=0, rate_hz=25.0, horizon=2)
    assert rows[:, 0].tolist() == [0, 1] and known.all()


def test_a_chunk_that_is_over_says_nothing():
    rows, known = align(chunk(), start_ns=10_000 * MS, rate_hz=25.0, horizon=4)
    assert not known.any() and not rows.any()


def test_counts_below_zero_are_refused():
    with pytest.raises(ValueError, match="must be a count, got -1"):
        Prefix(chunk(), delay_steps=-1, plan_start_ns=0)


def test_executed_steps_are_counted_from_the_plans_start():
    prefix = Prefix(chunk(), delay_steps=1, plan_start_ns=80 * MS)
    assert [prefix.execute_steps(t * MS, 25.0) for t in (0, 80, 130, 320)] == [0, 0, 1, 6]
