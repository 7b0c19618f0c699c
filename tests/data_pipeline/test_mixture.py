"""pytest tests/data_pipeline/test_mixture.py"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.mixture import Mixture, Place, SampleStream, shuffled_index
from data_pipeline.storage import EpisodeStore


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
        ({"episode_lengths": [[3]], "start_fraction": 1.5}, "start_fraction must be in"),
        ({"episode_lengths": [[3]], "start_steps": 0}, "start_steps at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixture(seed=0, **arguments)


def test_a_stream_gives_the_same_samples_decoded_or_not(tmp_path, robot, episode):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        for i in range(3):
            store.add(episode(num_steps=5 + i, seed=i, name=f"e{i}"))
    streams = [
        SampleStream([store], seed=3, horizon=4, decoded_cache_bytes=limit) for limit in (0, store.decoded_bytes)
    ]
    for index in [*range(30), 10**9]:
        place = streams[0].mixture.locate(index)
        a, b = (stream[index] for stream in streams)
        np.testing.assert_array_equal(a.observation.state, store[place.episode].states[place.step])
        np.testing.assert_array_equal(a.observation.images["external"], b.observation.images["external"])
        np.testing.assert_array_equal(a.action_chunk.actions, b.action_chunk.actions)
        assert a.observation.instruction == b.observation.instruction
    assert len({streams[0][i].observation.instruction for i in range(30)}) == 2
