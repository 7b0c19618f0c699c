"""Lines, curves and braking.

Run: pytest tests/deploy/test_interpolate.py
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.interpolate import brake, hermite, lerp, monotone_slopes, rdt_linear, rows_at, smoothstep, stopping_time

knots = st.lists(st.tuples(st.floats(0.02, 0.2), st.floats(-1, 1)), min_size=3, max_size=8)


def curve(times, rows, slopes, t):
    i = min(max(int(np.searchsorted(times, t, side="right")) - 1, 0), len(times) - 2)
    width = times[i + 1] - times[i]
    return hermite(rows[i], rows[i + 1], slopes[i], slopes[i + 1], width, (t - times[i]) / width)


@settings(deadline=None)
@given(knots)
def test_the_cubic_passes_its_knots_smoothly_and_never_overshoots(steps):
    times = np.cumsum([width for width, _ in steps])
    rows = np.array([[value] for _, value in steps])
    slopes = monotone_slopes(times, rows)
    for i, t in enumerate(times):
        assert curve(times, rows, slopes, t) == pytest.approx(rows[i], abs=1e-9)
    for i in range(len(times) - 1):
        inside = [curve(times, rows, slopes, t)[0] for t in np.linspace(times[i], times[i + 1], 20)]
        low, high = sorted((rows[i, 0], rows[i + 1, 0]))
        assert min(inside) >= low - 1e-9
        assert max(inside) <= high + 1e-9


def test_the_cubic_is_the_line_on_a_line():
    times = np.array([0.0, 0.05, 0.13, 0.21])
    rows = 2.0 * times[:, None] + 1.0
    assert monotone_slopes(times, rows) == pytest.approx(np.full((4, 1), 2.0))


def test_the_cubic_starts_with_the_slope_that_it_is_given():
    times, rows = np.array([0.0, 0.1, 0.2]), np.array([[0.0], [0.1], [0.3]])
    slopes = monotone_slopes(times, rows, np.array([-1.0]))
    start = (curve(times, rows, slopes, 1e-6) - rows[0]) / 1e-6
    assert start == pytest.approx([-1.0], rel=1e-3)


def test_lerp_is_exact_at_both_ends():
    before, after = np.array([0.1, -3.0]), np.array([0.7, 1e-3])
    assert (lerp(before, after, 0.0) == before).all()
    assert lerp(before, after, 1.0) == pytest.approx(after)


def test_smoothstep_is_flat_outside():
    assert [smoothstep(x) for x in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 0.5, 1, 1]


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0.5, 20))
def test_braking_comes_to_rest_after_v_squared_over_2a(velocity, deceleration):
    v, a = np.array([velocity]), np.array([deceleration])
    rest = brake(np.zeros(1), v, a, 100.0)
    assert rest == pytest.approx(np.sign(v) * v * v / (2 * a), abs=1e-9)
    assert (brake(np.zeros(1), v, a, float(stopping_time(v, a)[0])) == rest).all()
    assert brake(np.zeros(1), v, a, 1e-6) == pytest.approx(v * 1e-6, abs=1e-10)


def test_what_may_stop_at_once_does():
    at_once = brake(np.array([0.3]), np.array([5.0]), np.array([np.inf]), 0.02)
    assert (at_once == [0.3]).all()


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=7, max_size=7))
def test_the_published_interpolation_bounds_every_step(target):
    before, after = np.zeros(7), np.array(target)
    max_step = np.array([0.01] * 6 + [0.2])
    rows = rdt_linear(before, after, max_step)
    steps = np.abs(np.diff(np.vstack([before, rows]), axis=0))
    assert (steps <= max_step + 1e-12).all()
    assert (rows[-1] == after).all()
    assert len(rows) == 1 or (np.abs(after) / (len(rows) - 1) > max_step).any()  # no more rows than it takes


def test_a_small_move_is_not_interpolated():
    assert rdt_linear(np.zeros(2), np.array([0.004, 0.1]), np.array([0.01, 0.2])).tolist() == [[0.004, 0.1]]


def test_rows_between_rows_and_at_the_ends():
    rows = np.array([[0.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    found = rows_at(rows, np.array([-1.0, 0.0, 0.5, 1.0, 1.75, 2.0, 9.0]))
    assert found == pytest.approx(np.array([[0, 1], [0, 1], [1, 1], [2, 1], [2.75, 0.25], [3, 0], [3, 0]]))
    assert rows_at(rows[:1], np.array([0.0, 3.0])) == pytest.approx(np.array([[0, 1], [0, 1]]))
