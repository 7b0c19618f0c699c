"""Run: pytest tests/data_pipeline/annotation/eeg/test_synthetic.py"""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression

from data_pipeline.annotation.eeg.normalise import personal_zscore
from data_pipeline.annotation.eeg.synthetic import CLASSES, Setting, make_dataset, make_pattern


def test_every_person_has_a_third_of_the_trials_of_each_class_and_trials_of_their_own():
    setting = Setting(num_people=3, num_sessions=2, segments_per_trial=4)
    rng = np.random.default_rng(0)
    pattern = make_pattern(setting, rng)
    first, second = (make_dataset(setting, pattern, rng, first_person=who) for who in (0, 3))
    assert first.X.shape == (3 * 2 * 9 * 4, 20, 5)
    assert set(second.person.tolist()) == {3, 4, 5} and not set(first.trial) & set(second.trial)
    for person in range(3):
        for session in range(2):
            own = first.of((first.person == person) & (first.session == session))
            assert [(own.y == label).sum() for label in CLASSES] == [12, 12, 12]
            assert len(set(own.trial.tolist())) == 9


def test_silent_channels_are_silent_for_all_classes():
    pattern = make_pattern(Setting(), np.random.default_rng(0))
    assert (np.abs(pattern).max(axis=(1, 2)) == 0).sum() == 6


def test_pooled_models_lose_with_every_person_who_runs_the_other_way():
    accuracy = []
    for flip in (0.0, 0.2, 0.4):
        setting = replace(Setting(num_channels=12, amplitude=0.6), absent=0.0, reversed_=flip)
        found = []
        for seed in range(3):
            rng = np.random.default_rng(seed)
            pattern = make_pattern(setting, rng)
            sets = [make_dataset(setting, pattern, rng, first_person=who) for who in (0, 8)]
            X, other = (personal_zscore(of.X, of.person).reshape(len(of.X), -1) for of in sets)
            found.append(LogisticRegression(max_iter=500).fit(X, sets[0].y).score(other, sets[1].y))
        accuracy.append(np.mean(found))
    assert accuracy[0] > accuracy[1] + 0.1 > accuracy[2] + 0.15


def test_trials_come_in_thirds():
    with pytest.raises(ValueError, match="multiple of 3"):
        make_dataset(Setting(trials_per_session=10), make_pattern(Setting(), np.random.default_rng(0)), None)
