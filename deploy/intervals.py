"""Intervals for success rates, and for the difference of two on the same scenes."""

from __future__ import annotations

from collections.abc import Sequence


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion: its ends stay in [0, 1] and mean something at 0 and 1 too."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference_interval(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """95 % interval (Student's t) of mean(second - first), where both ran the same scenes in the same order.

    "Within k points" is met when the interval excludes a loss of more than k. Without any difference, or with a
    single pair, the interval is as wide as the data are mute: a point, or (-1, 1).
    """
    import numpy as np
    from scipy.stats import t

    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    if len(difference) < 2:
        return -1.0, 1.0
    half = t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() - half), float(difference.mean() + half)
