"""pytest tests/rdt/model/test_position.py"""

import numpy as np
import pytest

from rdt.model.position import condition_table, grid_table, sequence_table, sincos


def test_sines_come_first():
    table = sincos(8, np.arange(3))
    np.testing.assert_allclose(table[2], [*np.sin(2 * 10.0 ** -np.arange(4)), *np.cos(2 * 10.0 ** -np.arange(4))])


def test_sequence_tells_kind_and_position():
    table = sequence_table(16, horizon=5)
    assert table.shape == (8, 16)
    np.testing.assert_array_equal(table[:, :8], sincos(8, np.array([0, 1, 2, 3, 3, 3, 3, 3])))
    np.testing.assert_array_equal(table[:, 8:], sincos(8, np.array([0, 0, 0, 0, 1, 2, 3, 4])))


def test_longer_horizon_only_adds_rows():
    np.testing.assert_array_equal(sequence_table(16, 9)[:8], sequence_table(16, 5))


def test_negative_length_shares_position_zero():
    table = condition_table(8, 5, [("lang", -5)])
    np.testing.assert_array_equal(table, np.tile([0, 0, 0, 0, 1, 1, 1, 1], (5, 1)))


def test_grid_gives_each_axis_its_columns():
    table = grid_table(16, (2, 3, -4)).reshape(2, 3, 4, 16)
    for frame in range(2):
        for camera in range(3):
            for patch in range(4):
                row = np.concatenate([sincos(8, np.array([frame]))[0], sincos(8, np.array([camera]))[0]])
                np.testing.assert_array_equal(table[frame, camera, patch], row)


@pytest.mark.parametrize(
    ("grid", "share", "owners"),
    [
        ((1, 3, -4), 16, [1]),  # one axis left: all columns
        ((2, 3, 4), 4, [0, 1, 2]),  # 16 // 3 = 5, made even; four columns stay 0
        ((1, 1, 4), 16, [2]),
    ],
)
def test_shares_of_columns(grid, share, owners):
    table = grid_table(16, grid)
    coordinates = np.indices(np.abs(grid)).reshape(3, -1)
    for k, axis in enumerate(owners):
        np.testing.assert_array_equal(table[:, k * share : (k + 1) * share], sincos(share, coordinates[axis]))
    assert not table[:, share * len(owners) :].any()


def test_grid_without_axes_is_zero():
    assert not grid_table(16, (1, 1, -4)).any()


def test_no_layout_counts_tokens():
    np.testing.assert_array_equal(condition_table(8, 5, None), sincos(8, np.arange(5)))


def test_entries_follow_each_other():
    table = condition_table(8, 7, [("lang", 3), ("image", [2, -2])])
    np.testing.assert_array_equal(table, np.concatenate([sincos(8, np.arange(3)), grid_table(8, [2, -2])]))


def test_layout_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"has 24 tokens, the condition has 23"):
        condition_table(8, 23, [("image", [2, 3, -4])])
