"""pytest tests/data_pipeline/test_mixture.py"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.mixture import Mixture, Place, shuffled_index


@given(size=st.integers(1, 700), key=st.integers(0, 2**64 - 1))
def test_shuffled_indices_are_a_permutation(size, key):
    assert sorted(shuffled_index(i, size, key) for i in range(size)) == list(range(size))


def test_shuffles_of_different_keys_are_unrelated():
    size = 1000
    orders = np.array([[shuffled_index(i, size, key) for i in range(size)] for key in range(12)])
    same = [np.mean(orders[a] == orders[b]) for a in range(12) for b in range(a)]
    assert max(same) < 0.01
    assert np.abs(np.corrcoef(np.vstack([orders, np.arange(size)])) - np.eye(13)).max() < 0.15


def test_every_step_comes_once_in_a_pass():
    mixture = Mixture([[3, 1, 8]], seed=5)
    size, block = 12, 4096
    counts = Counter(mixture.locate(i) for i in range(3 * block))  # a whole number of passes: 1024
    assert set(counts) == {Place(0, e, t) for e, n in enumerate([3, 1, 8]) for t in range(n)}
    assert set(counts.values()) == {3 * block // size}


def test_shares_are_exact_and_do_not_depend_on_the_rank():
    mixture = Mixture([[50], [70], [10]], seed=0, weights=[5, 2, 1])
    stores = np.array([mixture.locate(i).store for i in range(4096)])
    assert np.bincount(stores).tolist() == [2560, 1024, 512]
    for ranks in (2, 8):
        for rank in range(ranks):
            share = np.bincount(stores[rank::ranks], minlength=3) * ranks / 4096
            np.testing.assert_allclose(share, [0.625, 0.25, 0.125], atol=0.1)


def test_without_weights_all_steps_count_alike():
    stores = [Mixture([[30], [10, 20]], seed=0).locate(i).store for i in range(4096)]
    assert Counter(stores) == {0: 2048, 1: 2048}


def test_a_store_without_weight_is_left_out():
    assert {Mixture([[3], [3]], seed=0, weights=[0, 1]).locate(i).store for i in range(100)} == {1}


def test_starts_of_episodes_get_their_fraction():
    lengths = [[40, 2, 58]]
    plain, started = Mixture(lengths, seed=0), Mixture(lengths, seed=0, start_fraction=0.25, start_steps=6)
    early = {
        name: np.mean([mixture.locate(i).step < 6 for i in range(4096)])
        for name, mixture in (("plain", plain), ("started", started))
    }
    assert early["plain"] == pytest.approx(0.14, abs=0.01)
    assert early["started"] == pytest.approx(0.25 + 0.75 * 0.14, abs=0.01)
    only = Mixture(lengths, seed=0, start_fraction=1, start_steps=6)
    assert max(only.locate(i).step for i in range(1000)) == 5


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    cap=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    turn=st.integers(0, 10**6),
)
def test_a_visit_draws_different_steps_and_the_next_ones_go_on(lengths, cap, seed, turn):
    visits = [min(length, cap) for length in lengths]
    stream = Mixture([lengths], seed=seed, weight_unit="episode", visit_lengths=[visits])._streams[0]
    size = sum(visits)
    turns = max(lengths)
    passes = [[stream.locate((turn + k) * size + i) for i in range(size)] for k in range(turns)]
    for places in passes:
        assert len(set(places)) == size
        assert Counter(place.episode for place in places) == dict(enumerate(visits))
    for episode, (length, visit) in enumerate(zip(lengths, visits, strict=True)):
        seen = Counter(place.step for places in passes for place in places if place.episode == episode)
        counts = [seen[step] for step in range(length)]
        assert sum(counts) == turns * visit and max(counts) - min(counts) <= 1  # all steps equally often


def test_in_unit_episode_a_share_is_weight_times_mean_visit():
    lengths, visits, weights = [[4, 9], [30], [2, 2, 3, 5]], [[4, 5], [5], [2, 2, 3, 5]], [1, 2, 0.5]
    mixture = Mixture(lengths, seed=1, weights=weights, weight_unit="episode", visit_lengths=visits)
    samples = 5 * 4096
    counts = np.bincount([mixture.locate(i).store for i in range(samples)])
    parts = np.array([1 * 4.5, 2 * 5, 0.5 * 3])
    assert np.abs(counts - samples * parts / parts.sum()).max() < 2  # the interleave is exact: only rounding is left


def test_in_unit_episode_all_episodes_count_alike_without_weights():
    mixture = Mixture([[4, 9], [30]], seed=1, weight_unit="episode", visit_lengths=[[4, 5], [5]])
    counts = Counter(mixture.locate(i)[:2] for i in range(14 * 4096))
    assert counts == {(0, 0): 4 * 4096, (0, 1): 5 * 4096, (1, 0): 5 * 4096}


def test_in_unit_step_no_visit_ends_early():
    capped = Mixture([[40]], seed=1, weight_unit="step", visit_lengths=[[3]])
    assert [capped.locate(i) for i in range(100)] == [Mixture([[40]], seed=1).locate(i) for i in range(100)]


def test_starts_are_drawn_in_unit_episode_too():
    mixture = Mixture([[40, 4]], seed=0, weight_unit="episode", visit_lengths=[[8, 4]], start_fraction=0.25)
    early = np.mean([mixture.locate(i).step < 6 for i in range(4096)])
    assert early == pytest.approx(0.25 + 0.75 * (8 * 6 / 40 + 4) / 12, abs=0.03)


def test_chosen_steps_get_their_share_of_a_store_that_has_some():
    chosen = [[[], [7, 30]], [[]]]
    mixture = Mixture([[10, 40], [50]], seed=0, chosen_fraction=0.25, chosen_steps=chosen)
    places = Counter(mixture.locate(i) for i in range(4096))
    assert sum(count for place, count in places.items() if place.store == 0) == 2048
    share = [places[Place(0, 1, step)] / 2048 for step in (7, 30)]
    assert share == pytest.approx([0.125 + 0.75 / 50] * 2, abs=0.01)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.05, 8), min_size=5, max_size=5),
    unit=st.sampled_from(["step", "episode"]),
    seed=st.integers(0, 2**32),
)
def test_episodes_come_as_often_as_their_weights_say(lengths, weights, unit, seed):
    weights = weights[: len(lengths)]
    mixture = Mixture([lengths], seed=seed, weight_unit=unit, episode_weights=[weights])
    size = mixture._streams[0]._ends[-1]
    counts = Counter(mixture._streams[0].locate(i)[1:] for i in range(size))
    expected = np.multiply(weights, lengths) / np.dot(weights, lengths)
    share = [sum(counts[episode, step] for step in range(n)) / size for episode, n in enumerate(lengths)]
    assert share == pytest.approx(expected, abs=0.01 * len(lengths))
    for episode, length in enumerate(lengths):
        of_step = [counts[episode, step] for step in range(length)]
        assert max(of_step) - min(of_step) <= 1  # all steps of an episode equally often


def test_episode_weights_leave_the_shares_of_stores_starts_and_chosen_steps():
    arguments = {"start_fraction": 0.25, "chosen_fraction": 0.25, "chosen_steps": [[[], [7, 30]], [[]]]}
    lengths = [[10, 40], [50]]
    mixture = Mixture(lengths, seed=0, weights=[1, 3], episode_weights=[[3, 1], [1]], **arguments)
    places = [mixture.locate(i) for i in range(4 * 4096)]
    assert sum(place.store == 0 for place in places) == 4096
    of_first = Counter(place.episode for place in places if place.store == 0)
    chosen, started, rest = 0.25, 0.25 * 3 * 6 / (3 * 6 + 6), 0.5 * 3 * 10 / (3 * 10 + 40)
    assert of_first[0] / 4096 == pytest.approx(started + rest, abs=0.02)
    assert of_first[1] / 4096 == pytest.approx(chosen + 0.25 - started + 0.5 - rest, abs=0.02)


def test_equal_weights_draw_alike_and_zero_never():
    counts = Counter(Mixture([[4, 6]], seed=1, episode_weights=[[5, 5]]).locate(i) for i in range(10 * 4096))
    assert max(counts.values()) - min(counts.values()) <= 64
    only = Mixture([[4, 6, 5]], seed=1, episode_weights=[[0, 2, 0]])
    assert {only.locate(i).episode for i in range(1000)} == {1}


def test_substitutes_are_other_places_by_index_and_attempt():
    mixture = Mixture([[500], [300]], seed=3)
    places = [mixture.substitute(index, attempt) for index in range(50) for attempt in (1, 2, 3)]
    assert places == [Mixture([[500], [300]], seed=3).substitute(i, a) for i in range(50) for a in (1, 2, 3)]
    assert len(set(places)) > 120  # drawn like any other, with few coincidences
    assert np.mean([place.store for place in places]) == pytest.approx(3 / 8, abs=0.15)


def test_the_order_is_a_pure_function_of_seed_and_index():
    places = [Mixture([[9, 9], [5]], seed=seed).locate(i) for seed in (1, 1, 2) for i in range(200)]
    assert places[:200] == places[200:400] != places[400:]


def test_the_order_is_fixed_for_good():
    # a resumed run of another version must see this order: a change here is a change of every run
    mixture = Mixture([[9, 9], [5]], seed=7, weights=[1, 2], start_fraction=0.25)
    assert [tuple(mixture.locate(i)) for i in (0, 1, 2, 10**6, 10**12)] == [
        (1, 0, 2),
        (0, 0, 4),
        (1, 0, 1),
        (1, 0, 4),
        (1, 0, 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episode_lengths": []}, "at least one store"),
        ({"episode_lengths": [[3], []]}, "at least one episode"),
        ({"episode_lengths": [[3]], "weights": [1, 2]}, "weights must be 1 numbers"),
        ({"episode_lengths": [[3], [3]], "weights": [0, 0]}, "weights must be"),
        ({"episode_lengths": [[3], [3]], "weights": [2, -1]}, "weights must be"),
        ({"episode_lengths": [[3]], "weight_unit": "episode", "visit_lengths": [[4]]}, "at most all of them"),
        ({"episode_lengths": [[3]], "start_fraction": 1.5}, "start_fraction must be in"),
        ({"episode_lengths": [[3]], "start_steps": 0}, "start_steps at least 1"),
        ({"episode_lengths": [[3, 3]], "episode_weights": [[1]]}, "episode_weights must be 2 numbers"),
        ({"episode_lengths": [[3]], "episode_weights": [[float("nan")]]}, "episode_weights must be"),
        ({"episode_lengths": [[3, 3]], "episode_weights": [[0, 0]]}, "leave the store out"),
        (
            {"episode_lengths": [[3]], "start_fraction": 0.5, "chosen_fraction": 0.6},
            "leave start_fraction 0.5 its share",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixture(seed=0, **arguments)
