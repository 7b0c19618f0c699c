"""Intervals for success rates, for the difference of two on the same scenes, and for means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959964  # two-sided 95 % quantile of the standard normal


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion: its ends stay in [0, 1] and mean something at 0 and 1 too."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference_interval(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of mean(second) - mean(first), where both ran the same scenes in the same order.

    With b scenes that only the first and c that only the second did, of n: Wald's interval after half a scene is
    added to each of the four outcomes (Agresti and Min 2005), so a handful of equal scenes proves no equality.
    "Within k points" is met when the interval excludes a loss of more than k.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in pairs) + 0.5
    only_second = sum(b and not a for a, b in pairs) + 0.5
    n = len(pairs) + 2
    difference = (only_second - only_first) / n
    half = Z_95 * math.sqrt(only_first + only_second - n * difference**2) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def bootstrap_interval(values: Sequence[float], resamples: int = 20_000) -> tuple[float, float] | None:
    """95 % percentile interval of the mean, by resampling the values; of paired runs give the differences.

    Of five values it is narrower than it should be: fewer than nine in ten hold the mean. One value has none.
    """
    given = np.asarray(values, dtype=float)
    if len(given) < 2:
        return None
    rows = np.random.default_rng(0).integers(len(given), size=(resamples, len(given)))
    low, high = np.percentile(given[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean; of a single value it is the value itself, which says nothing."""
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, mean
    from scipy.stats import t

    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(t.ppf(0.975, n - 1)) * spread
    return mean - half, mean + half
