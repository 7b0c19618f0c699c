"""How much each channel and band tells two classes apart, with the direction: signed weights (pair, channel, band).

The Correction T-test (CT) is the published one (spec eeg_wcmf.md section 2.1). `ttest`, `mutual_info` and `auc` stand
for its three neighbours, whose names are not known. A weight is positive where the first class of its pair has the
larger mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from data_pipeline.schema.registry import unknown_name

SIGNIFICANT = 0.05
_NOT_SIGNIFICANT = 0.1  # p that gives weight 0

PairWeight = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(samples of the first class, of the second), each (sample, channel, band) -> signed weight (channel, band)."""


def class_pairs(num_classes: int) -> list[tuple[int, int]]:
    """(0, 1), (0, 2), (1, 2), ...: the order of the first axis of all weights."""
    return list(combinations(range(num_classes), 2))


def pair_incidence(num_classes: int) -> np.ndarray:
    """float64 (pair, class): 1 where a pair contains the class. Of three classes [[1,1,0],[1,0,1],[0,1,1]]."""
    pairs = class_pairs(num_classes)
    incidence = np.zeros((len(pairs), num_classes))
    for row, pair in enumerate(pairs):
        incidence[row, list(pair)] = 1
    return incidence


def correction(p: np.ndarray) -> np.ndarray:
    """log10(log10(1 / p)) / 3 of corrected p values: 0 above 0.05, 0.038 there, 0.33 at 1e-10, 1 at p = 0."""
    p = np.where(np.asarray(p, dtype=np.float64) > SIGNIFICANT, _NOT_SIGNIFICANT, p)
    with np.errstate(divide="ignore"):
        weight = np.log10(-np.log10(p)) / 3
    return np.where(np.isfinite(weight), weight, 1.0)


def ct(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correction T-test: of two samples, p by Benjamini and Hochberg over all features, then `correction`."""
    from scipy.stats import false_discovery_control

    p = np.nan_to_num(_t_test(first, second).pvalue, nan=1.0)  # of features that never change
    return correction(false_discovery_control(p, axis=None)).reshape(p.shape) * _direction(first, second)


def ttest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """t itself, uncorrected."""
    return np.nan_to_num(_t_test(first, second).statistic)


def mutual_info(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mutual information of a feature and the class in nats (Kraskov's estimate), with the direction of the means."""
    from sklearn.feature_selection import mutual_info_classif

    both = np.concatenate([first, second])
    label = np.repeat([0, 1], [len(first), len(second)])
    nats = mutual_info_classif(both.reshape(len(both), -1), label, random_state=0)
    return nats.reshape(first.shape[1:]) * _direction(first, second)


def auc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """2 AUC - 1 in [-1, 1] of telling the first class by a larger value: Mann and Whitney's U."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([first, second]), axis=0)[: len(first)].sum(axis=0)
    u = ranks - len(first) * (len(first) + 1) / 2
    return 2 * u / (len(first) * len(second)) - 1


METHODS: dict[str, PairWeight] = {"ct": ct, "ttest": ttest, "mutual_info": mutual_info, "auc": auc}


def pair_weights(X: np.ndarray, y: np.ndarray, classes: Sequence[Any] | np.ndarray, method: str = "ct") -> np.ndarray:
    """Signed weights (pair, channel, band) of `X` (sample, channel, band), pairs in the order of `class_pairs`.

    A pair of which one class has fewer than two samples weighs nothing.
    """
    weigh = _method(method)
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y)
    weights = np.zeros((len(class_pairs(len(classes))), *X.shape[1:]))
    for row, (a, b) in enumerate(class_pairs(len(classes))):
        first, second = X[y == classes[a]], X[y == classes[b]]
        if min(len(first), len(second)) > 1:
            weights[row] = weigh(first, second)
    return weights


def subsampled_weights(
    X: np.ndarray,
    y: np.ndarray,
    trials: np.ndarray,
    classes: Sequence[Any] | np.ndarray,
    rng: np.random.Generator,
    *,
    method: str = "ct",
    num_subsamples: int = 50,
    segments_per_trial: int = 30,
) -> np.ndarray:
    """The mean of `pair_weights` over random subsamples of so many segments of each trial, all of a shorter one.

    p shrinks with the number of samples: equal numbers make weights of people and sessions comparable.
    """
    X, y = np.asarray(X), np.asarray(y)
    rows_of_trial = [np.flatnonzero(trials == trial) for trial in np.unique(trials)]
    if max(map(len, rows_of_trial)) <= segments_per_trial:  # all subsamples are the same
        return pair_weights(X, y, classes, method)
    total = np.zeros((len(class_pairs(len(classes))), *X.shape[1:]))
    for _ in range(num_subsamples):
        chosen = [rng.permutation(rows)[:segments_per_trial] for rows in rows_of_trial]
        rows = np.concatenate(chosen)
        total += pair_weights(X[rows], y[rows], classes, method)
    return total / num_subsamples


def class_weights(weights: np.ndarray, num_classes: int) -> np.ndarray:
    """W (channel, class) of weights (pair, channel, band): summed over the pairs of a class, mean over bands.

    Of |CT| it is the published credibility of a channel's model for a class; of signed weights a negative one makes the
    channel vote reversed.
    """
    return np.einsum("pcb,pk->ck", weights, pair_incidence(num_classes)) / weights.shape[2]


def _t_test(first: np.ndarray, second: np.ndarray) -> Any:
    """scipy's, silent about features that never change: their result is not a number."""
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return ttest_ind(first, second, axis=0)


def _direction(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.sign(first.mean(axis=0) - second.mean(axis=0))


def _method(name: str) -> PairWeight:
    if name not in METHODS:
        raise ValueError(unknown_name("weight", name, METHODS))
    return METHODS[name]
