"""Run: pytest tests/data_pipeline/annotation/eeg/test_normalise.py"""

import numpy as np
import pytest

from data_pipeline.annotation.eeg.normalise import RunningZscore, personal_zscore

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (60, 4, 5))
PEOPLE = np.repeat([7, 2, 7], 20)
SESSIONS = np.repeat(["a", "a", "b"], 20)


def test_every_person_and_session_has_mean_0_and_deviation_1():
    scaled = personal_zscore(X, PEOPLE, SESSIONS)
    for rows in (slice(0, 20), slice(20, 40), slice(40, 60)):
        np.testing.assert_allclose(scaled[rows].mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(scaled[rows].std(axis=0), 1)


def test_without_sessions_those_of_a_person_are_one():
    scaled = personal_zscore(X, PEOPLE)
    np.testing.assert_allclose(scaled[PEOPLE == 7].mean(axis=0), 0, atol=1e-12)
    assert np.abs(scaled[:20].mean(axis=0)).max() > 0.01


def test_offset_and_scale_of_a_person_do_not_matter():
    changed = X.copy()
    changed[PEOPLE == 7] = 5 * changed[PEOPLE == 7] - 40
    np.testing.assert_allclose(personal_zscore(changed, PEOPLE), personal_zscore(X, PEOPLE), atol=1e-9)


def test_the_running_one_is_that_of_the_samples_so_far():
    running = RunningZscore()
    for count, x in enumerate(X[:20], start=1):
        so_far = personal_zscore(X[:count], PEOPLE[:count])[-1]
        np.testing.assert_allclose(running.update(x), so_far, atol=1e-9)


def test_a_feature_that_never_changes_is_0():
    assert not personal_zscore(np.full((6, 2, 5), 3.3), np.zeros(6)).any()
    assert not RunningZscore().update(np.ones((2, 5))).any()


def test_every_sample_has_a_person():
    with pytest.raises(ValueError, match="60 samples need as many people"):
        personal_zscore(X, PEOPLE[:59])
