"""Run: pytest tests/data_pipeline/annotation/eeg/test_analysis.py"""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from data_pipeline.annotation.eeg.analysis import (
    aggregation,
    compare_patterns,
    density_clusters,
    embed,
    pattern_maps,
)
from data_pipeline.annotation.eeg.normalise import personal_zscore
from data_pipeline.annotation.eeg.synthetic import Recordings, Setting, make_dataset, make_pattern


def people(seed: int = 0, **changes) -> Recordings:
    setting = Setting(**{"num_people": 4, "num_sessions": 2, "segments_per_trial": 5, "amplitude": 0.8, **changes})
    rng = np.random.default_rng(seed)
    return make_dataset(setting, make_pattern(setting, rng), rng)


def test_samples_cluster_by_person_until_they_are_z_scored():
    found = people()
    few = found.of(np.arange(len(found.y)) % 5 < 3)
    scaled = personal_zscore(found.X, found.person, found.session)[np.arange(len(found.y)) % 5 < 3]
    by = {"person": few.person, "emotion": few.y}
    raw, after = (aggregation(X, by, embed(X)) for X in (few.X, scaled))
    assert raw["person"].silhouette > 0.2 and raw["person"].density > 0.6 and raw["person"].k_means > 0.9
    assert abs(after["person"].silhouette) < 0.05 and after["person"].k_means < 0.2
    assert raw["emotion"].k_means < 0.1


def test_density_finds_the_groups_that_are_there():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 40)) * 5
    truth = np.repeat([0, 1, 2], 30)
    labels = density_clusters(centres[truth] + rng.normal(size=(90, 40)))
    assert len({(a, b) for a, b in zip(truth.tolist(), labels.tolist(), strict=True)}) == 3
    assert (labels >= 0).mean() > 0.99


def patterns(found: Recordings):
    X = personal_zscore(found.X, found.person, found.session)
    return compare_patterns(pattern_maps(X, found.y, found.person, found.session, found.trial, num_subsamples=3))


def test_patterns_differ_between_people_and_last_over_sessions():
    different = patterns(people())
    assert different.difference > 0.6 and different.between_sessions > 0.4
    alike = patterns(people(absent=0.0, reversed_=0.0))
    assert alike.difference < 0.6 < different.difference
    assert alike.between_sessions == pytest.approx(alike.between_people, abs=0.1)
    assert patterns(people(num_sessions=1)).between_sessions is None


def test_what_cannot_be_compared_is_refused():
    found = people(num_people=1)
    with pytest.raises(ValueError, match="two people or more"):
        patterns(found)
    X = found.X[:30]
    with pytest.raises(ValueError, match="'person': all samples are of one group"):
        aggregation(X, {"person": np.zeros(30)}, X[:, 0, :2])
