"""pytest tests/data_pipeline/mapping/test_sync.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.mapping.sync import (
    SYNCHRONISERS,
    sample_linear,
    sample_nearest,
    sample_previous,
    sample_slerp,
    ticks_ns,
)
from data_pipeline.schema import rotation

STAMPS = np.array([100, 200, 400])
VALUES = np.array([[1.0], [2.0], [6.0]])


def test_previous():
    values, valid = sample_previous(STAMPS, VALUES, np.array([99, 100, 250, 301, 450]), 100)
    assert valid.tolist() == [False, True, True, False, True]
    assert values[valid].tolist() == [[1], [2], [6]]


def test_nearest_prefers_the_earlier_of_two():
    values, valid = sample_nearest(STAMPS, VALUES, np.array([0, 150, 151, 300, 501]), 100)
    assert valid.tolist() == [True, True, True, True, False]
    assert values[valid, 0].tolist() == [1, 1, 2, 2]


def test_linear():
    values, valid = sample_linear(STAMPS, VALUES, np.array([50, 150, 300, 350, 450]), 150)
    assert valid.tolist() == [True, True, True, True, True]
    assert values[:, 0].tolist() == [1, 1.5, 4, 5, 6]


def test_linear_needs_both_neighbours_young():
    _, valid = sample_linear(STAMPS, VALUES, np.array([200, 250, 300, 400]), 60)
    assert valid.tolist() == [True, False, False, True]


def test_linear_on_a_stamp_ignores_a_broken_neighbour():
    values, valid = sample_linear(STAMPS, np.array([1.0, 2.0, np.nan]), np.array([200]), 0)
    assert valid[0] and values[0] == 2


def test_equal_stamps_take_the_last():
    stamps, values = np.array([1, 1, 1]), np.array([1.0, 2.0, 3.0])
    for sample in (sample_previous, sample_linear):
        assert sample(stamps, values, np.array([1]), 0)[0] == 3


@pytest.mark.parametrize("how", sorted(SYNCHRONISERS))
def test_no_samples_is_no_value(how):
    values, valid = SYNCHRONISERS[how](np.zeros(0, np.int64), np.zeros((0, 4)), np.array([1, 2]), 10)
    assert values.shape == (2, 4) and not valid.any()


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20, unique=True), st.data())
def test_every_method_returns_the_samples_at_their_own_stamps(stamps, data):
    stamps = np.sort(stamps)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.normal(size=(len(stamps), 4))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    for sample in SYNCHRONISERS.values():
        found, valid = sample(stamps, values, stamps, 0)
        assert valid.all()
        np.testing.assert_allclose(found, values, atol=1e-12)


def test_slerp_turns_at_a_constant_rate_the_short_way():
    angles = np.array([0.0, 1.0, 2.5])
    quaternions = rotation.quaternion_from_matrix(rotation.matrix_from_axis_angle(angles[:, None] * [0, 0, 1.0]))
    quaternions[1] *= -1  # the same rotation
    at = np.array([100, 130, 200, 300, 400])
    found, valid = sample_slerp(STAMPS, quaternions, at, 200)
    expected = np.interp(at, STAMPS, angles)
    turned = rotation.axis_angle_from_matrix(rotation.matrix_from_quaternion(found))
    assert valid.all()
    np.testing.assert_allclose(turned, expected[:, None] * [0, 0, 1.0], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)


@pytest.mark.parametrize(
    ("stamps", "values", "at", "age", "message"),
    [
        ([2, 1], [0.0, 0.0], [1], 1, "goes back at sample 1"),
        ([1, 2], [0.0], [1], 1, "1 samples for 2 stamps"),
        ([1.0], [0.0], [1], 1, "whole nanoseconds"),
        ([1], [0.0], [1], -1, "0 or more"),
    ],
)
def test_bad_input(stamps, values, at, age, message):
    with pytest.raises(ValueError, match=message):
        sample_nearest(np.array(stamps), np.array(values), np.array(at), age)


def test_slerp_refuses_what_is_no_rotation():
    with pytest.raises(ValueError, match="4 numbers"):
        sample_slerp(np.array([1]), np.zeros((1, 3)), np.array([1]), 1)
    with pytest.raises(ValueError, match="length zero"):
        sample_slerp(np.array([1]), np.zeros((1, 4)), np.array([1]), 1)


def test_ticks_cover_the_span_without_drift():
    ticks = ticks_ns(5, 5 + 10**10, 30)
    assert len(ticks) == 301
    assert ticks[0] == 5 and ticks[-1] == 5 + 10**10
    assert len(ticks_ns(5, 4, 30)) == 0
