"""Personal-Zscore: every feature relative to its own person, which removes the clustering of samples by person.

Statistics are those of a person's unlabelled samples, by session. Known afterwards they are taken over all of them
(`personal_zscore`, transductive, as published); while a session runs, over those so far (`RunningZscore`).
"""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-9  # deviation, relative to the mean, of a feature that never changes: it becomes 0


def personal_zscore(X: np.ndarray, people: np.ndarray, sessions: np.ndarray | None = None) -> np.ndarray:
    """`X` (sample, ...) with mean 0 and deviation 1 in each feature within each person and session, float64."""
    groups = np.asarray(people) if sessions is None else np.stack([people, sessions], axis=1)
    X = np.asarray(X, dtype=np.float64)
    if len(groups) != len(X):
        raise ValueError(f"{len(X)} samples need as many people and sessions, got {len(groups)}")
    result = np.empty_like(X)
    _, group = np.unique(groups, axis=0, return_inverse=True)
    for number in range(group.max() + 1 if len(X) else 0):
        rows = group.reshape(-1) == number
        result[rows] = _scaled(X[rows], X[rows].mean(axis=0), X[rows].std(axis=0))
    return result


class RunningZscore:
    """The same of one person's session while it runs: each sample by the mean and deviation of those up to it.

    Welford's sums: any number of samples costs two arrays. The first sample has nothing to differ from and is 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def update(self, x: np.ndarray) -> np.ndarray:
        """Take in one sample, and return it scaled."""
        x = np.asarray(x, dtype=np.float64)
        self.count += 1
        before = x - self._mean
        self._mean = self._mean + before / self.count
        self._squares = self._squares + before * (x - self._mean)
        return _scaled(x, self._mean, np.sqrt(self._squares / self.count))


def _scaled(x: np.ndarray, mean: np.ndarray | float, deviation: np.ndarray | float) -> np.ndarray:
    changes = deviation > _ROUNDING * np.abs(mean)
    return np.where(changes, (x - mean) / np.where(changes, deviation, 1), 0.0)
