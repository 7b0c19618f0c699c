"""What labelled EEG features show before any model: what samples cluster by, and whose emotional pattern is whose.

Aggregation: silhouettes of the samples by person, session, trial and emotion, and how well clusters that were found
without labels agree with each. Patterns: signed CT maps of each person and session, of which IEFDD says how much they
differ between people and CCIEP how alike those of one person are (spec eeg_wcmf.md sections 2, 2.2 and 3). Needs the
extra `eeg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np

from data_pipeline.annotation.eeg.weights import subsampled_weights

MIN_CLUSTER = 8  # samples around a core of DBSCAN
MAX_NOISE = 0.01  # share of samples that no cluster holds
_RADII = 60  # that DBSCAN is tried at


@dataclass(frozen=True)
class Aggregation:
    """How samples lie together by one effect."""

    silhouette: float  # in [-1, 1]; above 0: nearer to their own group than to the next
    density: float  # adjusted mutual information of DBSCAN's clusters with the groups, 0 by chance, 1 at most
    k_means: float  # the same of as many k-means clusters in the plane of `embed`


@dataclass(frozen=True)
class Patterns:
    """Of signed CT maps."""

    between_people: float  # mean correlation of maps of two people
    between_sessions: float | None  # mean correlation of two sessions of one person (CCIEP); None: one session each

    @property
    def difference(self) -> float:
        """IEFDD: 1 - mean correlation between people; 0 where all show emotion alike, 1 where nothing is shared."""
        return 1 - self.between_people


def embed(X: np.ndarray, seed: int = 0) -> np.ndarray:
    """The samples in a plane by t-SNE of correlation distances, (sample, 2)."""
    from sklearn.manifold import TSNE

    flat = _flat(X)
    perplexity = min(30.0, (len(flat) - 1) / 3)
    return TSNE(2, metric="correlation", init="random", perplexity=perplexity, random_state=seed).fit_transform(flat)


def aggregation(
    X: np.ndarray, effects: Mapping[str, np.ndarray], plane: np.ndarray, seed: int = 0
) -> dict[str, Aggregation]:
    """By each effect: name -> the group of each sample. `plane` is that of `embed`."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

    flat, dense = _flat(X), density_clusters(X)
    found = {}
    for name, groups in effects.items():
        count = len(np.unique(groups))
        if count < 2:
            raise ValueError(f"effect {name!r}: all samples are of one group, there is nothing to cluster by")
        near = KMeans(count, n_init=4, random_state=seed).fit_predict(plane)
        found[name] = Aggregation(
            silhouette=float(silhouette_score(flat, groups)),
            density=float(adjusted_mutual_info_score(groups, dense)),
            k_means=float(adjusted_mutual_info_score(groups, near)),
        )
    return found


def density_clusters(X: np.ndarray) -> np.ndarray:
    """DBSCAN of correlation distances, int64 (sample,), -1 for what no cluster holds.

    The radius is the middle of the longest run of radii that give one number of clusters with less than 1 % outside;
    where no radius leaves less outside, it is the largest one tried.
    """
    from sklearn.cluster import DBSCAN
    from sklearn.metrics import pairwise_distances

    distances = np.maximum(pairwise_distances(_flat(X), metric="correlation"), 0)
    neighbour = np.sort(distances, axis=1)[:, min(MIN_CLUSTER, len(distances)) - 1]
    radii = np.linspace(neighbour.min(), neighbour.max(), _RADII)
    labels = [DBSCAN(eps=r, min_samples=MIN_CLUSTER, metric="precomputed").fit_predict(distances) for r in radii]
    counts = [int(of.max()) + 1 if (of < 0).mean() < MAX_NOISE else 0 for of in labels]
    runs = [list(run) for count, run in groupby(range(len(counts)), key=counts.__getitem__) if count]
    if not runs:
        return labels[-1]
    longest = max(runs, key=len)
    return labels[longest[len(longest) // 2]]


def pattern_maps(
    X: np.ndarray,
    y: np.ndarray,
    person: np.ndarray,
    session: np.ndarray,
    trial: np.ndarray,
    *,
    num_subsamples: int = 50,
    segments_per_trial: int = 30,
    seed: int = 0,
) -> dict[tuple[int, int], np.ndarray]:
    """(person, session) -> signed CT (pair, channel, band): which features change with emotion, and which way."""
    classes, maps = np.unique(y), {}
    for who, when in sorted(set(zip(person.tolist(), session.tolist(), strict=True))):
        own = (person == who) & (session == when)
        maps[who, when] = subsampled_weights(
            X[own],
            y[own],
            trial[own],
            classes,
            np.random.default_rng(seed),
            num_subsamples=num_subsamples,
            segments_per_trial=segments_per_trial,
        )
    return maps


def compare_patterns(maps: Mapping[tuple[int, int], np.ndarray]) -> Patterns:
    """How alike the maps of `pattern_maps` are, between people and between sessions of one person."""
    between, within = list[float](), list[float]()
    for (one, a), (other, b) in combinations(maps.items(), 2):
        correlation = float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        (within if one[0] == other[0] else between).append(correlation)
    if not between:
        raise ValueError("patterns are compared between people: maps of two people or more are needed")
    return Patterns(float(np.nanmean(between)), float(np.nanmean(within)) if within else None)


def _flat(X: np.ndarray) -> np.ndarray:
    return np.asarray(X, dtype=np.float64).reshape(len(X), -1)
