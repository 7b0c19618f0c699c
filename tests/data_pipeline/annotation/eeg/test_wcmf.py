"""Run: pytest tests/data_pipeline/annotation/eeg/test_wcmf.py"""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score

from data_pipeline.annotation.eeg.normalise import personal_zscore
from data_pipeline.annotation.eeg.synthetic import CLASSES, Setting, make_dataset, make_pattern
from data_pipeline.annotation.eeg.wcmf import CALIBRATED, ChannelModelMatrix, fuse

SMALL = Setting(num_channels=8, num_people=4, segments_per_trial=8, amplitude=1.0, absent=0.0, reversed_=0.0)


def data(setting: Setting = SMALL, seed: int = 0):
    """(source, target), both z-scored, of one pattern."""
    rng = np.random.default_rng(seed)
    pattern = make_pattern(setting, rng)
    source = make_dataset(setting, pattern, rng)
    target = make_dataset(setting, pattern, rng, first_person=100)
    return [(personal_zscore(of.X, of.person), of.y, of.trial, of.person) for of in (source, target)]


def matrix(**changes) -> ChannelModelMatrix:
    return ChannelModelMatrix(**{"num_subsamples": 5, "segments_per_trial": 8, **changes})


@pytest.fixture(scope="module")
def fitted():
    (X, y, trial, _), target = data()
    return matrix().fit(X, y, trial), target


def test_it_is_an_estimator_as_scikit_learn_has_them(fitted):
    model, _ = fitted
    again = clone(model.set_params(C=1.0))
    assert again.get_params() == model.get_params() and not hasattr(again, "models_")
    assert again.set_params(fusion="signed", C=2.0).C == 2.0
    with pytest.raises(NotFittedError):
        matrix().predict(np.zeros((2, 8, 5)))
    (X, y, _, person), _ = data()
    scores = cross_val_score(matrix(), X, y, groups=person, cv=GroupKFold(4))
    assert scores.mean() > 0.7 > 1 / 3


def test_probabilities_are_some_and_the_largest_is_predicted(fitted):
    model, (X, y, _, _) = fitted
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(model.predict(X), model.classes_[p.argmax(axis=1)])
    assert model.score(X, y) == np.mean(model.predict(X) == y) > 0.7


def test_valence_is_positive_less_negative_and_sure_where_one_class_is_likely(fitted):
    model, (X, y, _, _) = fitted
    valence, confidence = model.valence(X)
    p = model.predict_proba(X)
    np.testing.assert_allclose(valence, p[:, 2] - p[:, 0])
    assert valence[y == 1].mean() > 0.3 > -0.3 > valence[y == -1].mean()
    assert (confidence >= 0).all() and (confidence <= 1).all()
    assert np.corrcoef(confidence, p.max(axis=1))[0, 1] > 0.9


def test_a_channel_meets_its_own_weight():
    """The layout is (sample, channel, band): the one channel that tells anything has all the weight."""
    rng = np.random.default_rng(0)
    y = np.repeat(CLASSES, 60)
    X = rng.normal(size=(180, 7, 5))
    X[:, 4] += y[:, None] * np.linspace(1, 2, 5)
    model = matrix().fit(X, y)
    assert model.channel_weights().argmax(axis=0).tolist() == [4, 4, 4]
    assert model.channel_weights()[4].min() > 0.8
    others = X.copy()
    others[:, [0, 1, 2, 3, 5, 6]] = 0
    assert (model.predict(others) == y).mean() > 0.8
    silenced = X.copy()
    silenced[:, 4] = 0
    assert (model.predict(silenced) == y).mean() < 0.5


def test_channels_in_another_order_change_nothing():
    (X, y, trial, _), (other, _, _, _) = data()
    order = np.random.default_rng(0).permutation(X.shape[1])
    plain, shuffled = matrix().fit(X, y, trial), matrix().fit(X[:, order], y, trial)
    np.testing.assert_allclose(plain.decision_function(other), shuffled.decision_function(other[:, order]), atol=1e-6)


def test_fusions_are_their_formulas():
    source, target = np.array([[[0.4, -0.4, 0.4, 0.0]]]), np.array([[[0.1, -0.1, -0.1, 0.9]]])
    np.testing.assert_allclose(fuse("equal", source, None), np.ones((1, 1, 4)))
    np.testing.assert_allclose(fuse("source", source, None), [[[0.4, 0.4, 0.4, 0]]])
    np.testing.assert_allclose(fuse("target", source, target), [[[0.1, 0.1, 0.1, 0.9]]])
    np.testing.assert_allclose(fuse("agreement", source, target), [[[0.2, 0.2, 0, 0]]])
    np.testing.assert_allclose(fuse("signed", source, target), [[[0.2, 0.2, -0.2, 0]]])
    with pytest.raises(ValueError, match="labelled samples of the person"):
        fuse("signed", source, None)


def test_a_person_whose_channels_run_the_other_way_is_read_by_signed_weights():
    (X, y, trial, _), (other, truth, trials, _) = data()
    model = matrix(fusion="signed").fit(X, y, trial)
    reversed_ = -other
    assert matrix(fusion="source").fit(X, y, trial).score(reversed_, truth) < 0.2
    assert model.calibrate(reversed_, truth, trials).score(reversed_, truth) > 0.6
    assert (model.channel_weights() <= 0).all()


def test_without_individual_differences_all_fusions_agree():
    (X, y, trial, _), (other, truth, trials, _) = data()
    model = matrix(fusion="target").fit(X, y, trial).calibrate(other, truth, trials)
    scores = [model.set_params(fusion=fusion).score(other, truth) for fusion in ("equal", "source", *CALIBRATED)]
    pooled = LogisticRegression(max_iter=500).fit(X.reshape(len(X), -1), y)
    scores.append(pooled.score(other.reshape(len(other), -1), truth))
    assert max(scores) - min(scores) <= 0.05 and min(scores) > 0.75


@pytest.mark.parametrize("fusion", CALIBRATED)
def test_a_fusion_that_wants_the_person_says_so(fusion, fitted):
    (X, y, trial, _), (other, _, _, _) = data()
    with pytest.raises(NotFittedError, match=r"call calibrate\(X, y\) first"):
        matrix(fusion=fusion).fit(X, y, trial).predict(other)


def test_a_further_session_is_averaged_in(fitted):
    (X, y, trial, _), (other, truth, trials, _) = data()
    model = matrix(fusion="target").fit(X, y, trial).calibrate(other, truth, trials)
    first = model.target_weights_.copy()
    model.calibrate(other, np.roll(truth, 37), trials, update=True)
    second = 2 * model.target_weights_ - first
    assert not np.allclose(second, first)
    np.testing.assert_allclose(model.calibrate(other, np.roll(truth, 37), trials).target_weights_, second)
    assert model.num_calibrations_ == 1


def test_where_nothing_tells_classes_apart_the_valence_is_0_and_so_is_the_confidence():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(90, 4, 5)), np.repeat(CLASSES, 30)
    model = matrix(fusion="agreement").fit(X, y).calibrate(rng.normal(size=(9, 4, 5)), np.repeat(CLASSES, 3))
    assert not model.channel_weights().any()
    valence, confidence = model.valence(X)
    np.testing.assert_allclose(valence, 0, atol=1e-12)
    np.testing.assert_allclose(confidence, 0, atol=1e-12)


def test_two_classes_and_the_small_network_work_too():
    (X, y, trial, _), (other, truth, _, _) = data()
    two, known = y != 0, truth != 0
    model = matrix().fit(X[two], y[two], trial[two])
    assert model.decision_function(other).shape == (len(other), 2)
    assert model.score(other[known], truth[known]) > 0.85
    network = matrix(model="mlp").fit(X, y, trial)
    assert [coefs.shape for coefs in network.models_[0].coefs_] == [(5, 15), (15, 10), (10, 3)]
    assert network.score(other, truth) > 0.7
    np.testing.assert_allclose(network.channel_logits(other).mean(axis=2), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, X, y: m.set_params(fusion="sources").fit(X, y), "did you mean 'source'"),
        (lambda m, X, y: m.set_params(model="svm").fit(X, y), "unknown channel model"),
        (lambda m, X, y: m.fit(X.reshape(len(X), -1), y), r"must be \(sample, channel, band\)"),
        (lambda m, X, y: m.fit(X, np.ones(len(X), int)), "two classes or more"),
        (lambda m, X, y: m.fit(X, y, y[:3]), "groups name the trial of each sample"),
        (lambda m, X, y: m.fit(X, y).predict(X[:, :3]), "fitted to 8 channels x 5 bands"),
        (lambda m, X, y: m.fit(X, y).calibrate(X, y + 5), "none of the classes"),
    ],
)
def test_wrong_use_is_refused_by_name(call, message):
    (X, y, _, _), _ = data()
    with pytest.raises(ValueError, match=message):
        call(matrix(), X, y)
