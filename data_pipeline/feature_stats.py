"""Statistics of LeRobot features: of an episode, merged, and of a dataset; recomputed, never copied (interop.md 3.2).

Each is a mapping of names to arrays of the feature's own shape: min, max, mean, std (of the population), count, and
quantiles. Cameras are (3, 1, 1), pixels divided by 255, of a sample of frames. The statistics that scale a policy's
vectors are `stats.py`'s, exact and by slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MIN_CAMERA_STD = 0.02
"""Pictures that vary less than this are a known overflow of uint8 squares, not a dark room."""

_MAX_SAMPLED_FRAMES = 16
_PIXELS_PER_SIDE = 96

Stats = dict[str, np.ndarray]


def row_stats(rows: np.ndarray) -> Stats:
    """Of step values (steps, ...) of numbers or truth values; quantiles by exact sorting.

    Steps that are not finite, a sensor that was silent, do not count; {} where none is finite.
    """
    rows = finite_rows(rows)
    if not len(rows):
        return {}
    wide = rows.astype(np.float64)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        "count": np.array([len(rows)]),
        **quantiles(rows),
    }


def finite_rows(rows: np.ndarray) -> np.ndarray:
    """The steps all of whose numbers are numbers: (steps, n, ...), a number a step as a column."""
    rows = rows[:, None] if rows.ndim == 1 else rows
    finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    return rows if finite.all() else rows[finite]


def sampled_steps(num_steps: int, most: int = _MAX_SAMPLED_FRAMES) -> list[int]:
    """Evenly spread steps, the first and last among them."""
    return sorted({round(i) for i in np.linspace(0, num_steps - 1, min(most, num_steps))})


def frame_stats(frames: Sequence[np.ndarray]) -> Stats:
    """Of some RGB frames, each thinned to a grid of pixels."""
    pixels = [frame[:: _stride(frame.shape[0]), :: _stride(frame.shape[1])].reshape(-1, 3) for frame in frames]
    stats = row_stats(np.concatenate(pixels) / 255.0)
    count = stats.pop("count")
    count[:] = len(frames)
    return {**{name: value.reshape(3, 1, 1) for name, value in stats.items()}, "count": count}


def merge_stats(parts: Sequence[Mapping[str, np.ndarray]]) -> Stats:
    """Of all steps together, from the parts' own; quantiles cannot be merged and are left out."""
    counts = np.array([float(part["count"][0]) for part in parts])
    means = np.stack([np.asarray(part["mean"], dtype=np.float64) for part in parts])
    stds = np.stack([np.asarray(part["std"], dtype=np.float64) for part in parts])
    weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(axis=0)
    return {
        "min": np.minimum.reduce([part["min"] for part in parts]),
        "max": np.maximum.reduce([part["max"] for part in parts]),
        "mean": mean,
        "std": np.sqrt((weights * (stds**2 + (means - mean) ** 2)).sum(axis=0)),
        "count": np.array([int(counts.sum())]),
    }


def quantiles(rows: np.ndarray) -> Stats:
    """The quantiles alone, by exact sorting of the finite ones of the rows given, of which there is one at least."""
    found = np.quantile(finite_rows(rows).astype(np.float64), list(QUANTILES.values()), axis=0)
    return dict(zip(QUANTILES, found, strict=True))


def suspicious_cameras(stats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Cameras whose stored deviation is impossibly small: such a file's statistics were not computed rightly."""
    return [
        key
        for key, of in stats.items()
        if np.shape(of.get("std", 0.0)) == (3, 1, 1) and np.max(of["std"]) < MIN_CAMERA_STD
    ]


def to_plain(stats: Mapping[str, np.ndarray]) -> dict[str, list]:
    return {name: np.asarray(value).tolist() for name, value in stats.items()}


def _stride(length: int) -> int:
    return max(1, length // _PIXELS_PER_SIDE)
