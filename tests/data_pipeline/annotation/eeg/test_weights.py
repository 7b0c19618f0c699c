"""Run: pytest tests/data_pipeline/annotation/eeg/test_weights.py"""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from data_pipeline.annotation.eeg.weights import (
    METHODS,
    class_pairs,
    class_weights,
    correction,
    ct,
    pair_incidence,
    pair_weights,
    subsampled_weights,
)

CLASSES = (-1, 0, 1)


def planted(seed: int = 0, samples: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Channel 1, band 2 is higher in class 1 than in the others; channel 3, band 0 is lower in class -1."""
    rng = np.random.default_rng(seed)
    y = np.repeat(CLASSES, samples // 3)
    X = rng.normal(size=(samples, 4, 5))
    X[y == 1, 1, 2] += 3
    X[y == -1, 3, 0] -= 3
    return X, y


@pytest.mark.parametrize(("p", "weight"), [(0.05, 0.0381), (1e-10, 1 / 3), (1e-100, 2 / 3), (0.06, 0), (1, 0), (0, 1)])
def test_the_correction_is_the_formula(p, weight):
    assert correction(np.array([p])) == pytest.approx(weight, abs=1e-4)


def test_pairs_and_classes_meet_in_the_right_rows():
    assert class_pairs(3) == [(0, 1), (0, 2), (1, 2)]
    np.testing.assert_array_equal(pair_incidence(3), [[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    np.testing.assert_array_equal(pair_incidence(2), [[1, 1]])


def test_credibility_is_the_sum_over_a_classs_own_pairs():
    weights = np.zeros((3, 4, 5))
    weights[0, 2] = 1  # the pair of classes 0 and 1 in channel 2
    np.testing.assert_array_equal(class_weights(weights, 3), [[0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("method", METHODS)
def test_what_was_planted_weighs_most_where_and_whither_it_was_planted(method):
    weights = pair_weights(*planted(), CLASSES, method)
    assert weights.shape == (3, 4, 5)
    for pair, places in enumerate([[(3, 0)], [(1, 2), (3, 0)], [(1, 2)]]):
        order = np.argsort(-np.abs(weights[pair]), axis=None)[: len(places)]
        assert {divmod(int(i), 5) for i in order} == set(places)
        assert all(weights[pair][place] < 0 for place in places)  # the first class of each pair has the smaller mean


@pytest.mark.parametrize("method", METHODS)
def test_weights_do_not_feel_an_affine_change_of_a_feature(method):
    X, y = planted(1)
    scaled = X * np.random.default_rng(2).uniform(0.1, 9, X.shape[1:]) + 4
    np.testing.assert_allclose(pair_weights(scaled, y, CLASSES, method), pair_weights(X, y, CLASSES, method), atol=1e-6)


def test_exchanged_classes_change_the_sign():
    X, y = planted()
    first, second = X[y == -1], X[y == 1]
    np.testing.assert_allclose(ct(first, second), -ct(second, first))


def test_shuffled_labels_weigh_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 20, 5))
    weights = [pair_weights(X, rng.permutation(np.repeat(CLASSES, 100)), CLASSES) for _ in range(5)]
    assert np.mean(np.array(weights) == 0) >= 0.95


def test_a_feature_that_never_changes_and_a_class_of_one_sample_weigh_nothing():
    X, y = planted()
    X[:, 0, 0] = 5
    for method in METHODS:
        assert (pair_weights(X, y, CLASSES, method)[:, 0, 0] == 0).all(), method
    weights = pair_weights(X[:41], y[:41], CLASSES)  # one sample of class 0, none of class 1
    assert not weights.any()


def test_subsamples_make_weights_of_long_and_short_trials_comparable():
    X, y = planted(samples=600)
    trial = np.arange(600) // 100
    weak = X.copy()
    weak[y == 1, 1, 2] -= 2.5
    whole, few = pair_weights(weak, y, CLASSES), pair_weights(weak[::10], y[::10], CLASSES)
    assert np.abs(whole[1, 1, 2]) > np.abs(few[1, 1, 2]) + 0.05  # p shrinks with the number of samples
    rng = np.random.default_rng(0)
    drawn = subsampled_weights(weak, y, trial, CLASSES, rng, num_subsamples=20, segments_per_trial=10)
    assert abs(drawn[1, 1, 2] - few[1, 1, 2]) < 0.15


def test_a_trial_shorter_than_a_subsample_is_taken_whole():
    X, y = planted()
    all_of_it = subsampled_weights(X, y, y, CLASSES, np.random.default_rng(0), num_subsamples=2, segments_per_trial=999)
    np.testing.assert_allclose(all_of_it, pair_weights(X, y, CLASSES))


def test_an_unknown_weight_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ttest'"):
        pair_weights(*planted(), CLASSES, "t_test")
