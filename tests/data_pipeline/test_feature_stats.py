"""pytest tests/data_pipeline/test_feature_stats.py"""

from __future__ import annotations

import numpy as np

from data_pipeline.feature_stats import (
    frame_stats,
    merge_stats,
    quantiles,
    row_stats,
    sampled_steps,
    suspicious_cameras,
    to_plain,
)


def test_merged_parts_are_the_whole():
    rows = np.random.default_rng(0).normal(5, [0.1, 3], (100, 2))
    parts = [row_stats(part) for part in (rows[:3], rows[3:60], rows[60:])]
    merged, whole = merge_stats(parts), row_stats(rows)
    assert merged["count"] == whole["count"] == [100]
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(merged[name], whole[name], rtol=1e-12)
    assert not {"q01", "q99"} & set(merged)  # no mean of quantiles is a quantile
    np.testing.assert_array_equal(quantiles(rows)["q99"], np.quantile(rows, 0.99, axis=0))


def test_steps_that_are_not_finite_do_not_count():
    rows = np.random.default_rng(0).normal(size=(9, 2))
    spoilt = np.insert(rows, [0, 4, 9], [[np.nan, 1], [2, np.inf], [np.nan, np.nan]], axis=0)
    assert to_plain(row_stats(spoilt)) == to_plain(row_stats(rows))
    assert to_plain(quantiles(spoilt)) == to_plain(quantiles(rows))
    assert row_stats(spoilt[:1]) == {}


def test_scalars_and_truth_values_have_shape_one():
    stats = row_stats(np.array([True, False, True, True]))
    assert to_plain(stats)["min"] == [False] and to_plain(stats)["max"] == [True]
    assert stats["mean"] == [0.75] and stats["count"] == [4]


def test_cameras_are_by_channel_in_parts_of_one():
    frames = np.zeros((4, 10, 20, 3), np.uint8)
    frames[..., 1], frames[:, :5, :, 2] = 51, 255
    stats = frame_stats(frames)
    assert {np.shape(stats[name]) for name in stats if name != "count"} == {(3, 1, 1)}
    np.testing.assert_allclose(stats["mean"].ravel(), [0, 0.2, 0.5])
    np.testing.assert_allclose(stats["std"].ravel(), [0, 0, 0.5], atol=1e-12)  # no overflow of uint8
    assert stats["count"] == [4]


def test_an_impossible_deviation_of_a_camera_is_flagged():
    def camera(std: float) -> dict:
        return {"std": [[[std]]] * 3}

    stored = {"overflowed": camera(0.002), "right": camera(0.29), "action": {"std": [0.001, 0.0]}, "bare": {}}
    assert suspicious_cameras(stored) == ["overflowed"]


def test_sampled_steps_are_spread_and_few():
    assert sampled_steps(3) == [0, 1, 2] and sampled_steps(1) == [0]
    steps = sampled_steps(1000, 16)
    assert len(steps) == 16 and steps[0] == 0 and steps[-1] == 999
