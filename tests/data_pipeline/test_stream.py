"""pytest tests/data_pipeline/test_stream.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.mixture import Place
from data_pipeline.schema.types import CAMERA_ROLES
from data_pipeline.selection import split_held_out
from data_pipeline.storage import EpisodeStore
from data_pipeline.stream import SampleStream, UnreadableError
from tests.damage import damage_picture


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


@pytest.fixture
def store(tmp_path, robot, episode) -> EpisodeStore:
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        for i in range(3):
            store.add(episode(num_steps=30, seed=i, name=f"e{i}"), max_steps=10)
    return store


def damaged(store: EpisodeStore, steps) -> EpisodeStore:
    for episode, step in steps:
        damage_picture(store, episode, step)
    return EpisodeStore.open(store.path)


def test_pictures_of_cameras_that_nobody_reads_are_left_out(tmp_path, robot, episode, pictures):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(images={role: pictures(9) for role in CAMERA_ROLES}))
    seen = SampleStream([store], seed=3, horizon=4, cameras=["left_wrist"])[0].observation
    whole = SampleStream([store], seed=3, horizon=4)[0].observation
    assert list(seen.images) == list(seen.image_masks) == ["left_wrist"]
    np.testing.assert_array_equal(seen.images["left_wrist"], whole.images["left_wrist"])


def test_a_long_episode_shows_as_many_steps_as_its_store_says(store):
    stream = SampleStream([split_held_out(store, 3)[0]], seed=0, horizon=4, weight_unit="episode")
    assert stream.mixture._streams[0]._ends.tolist() == [10, 20]


@pytest.mark.parametrize("cache", [0, 2**31])
def test_a_bad_sample_is_named_and_replaced_by_the_same_one_for_everybody(store, cache):
    store = damaged(store, [(1, step) for step in range(10, 20)])
    stream, other = (SampleStream([store], seed=3, horizon=4, decoded_cache_bytes=cache) for _ in range(2))
    drawn = [stream.draw(index) for index in range(200)]
    again = [other.draw(index) for index in reversed(range(200))][::-1]  # by whomever, in whatever order
    bad_places = {Place(0, 1, step) for step in range(10, 21)}  # the frame before is seen too
    for index, (one, two) in enumerate(zip(drawn, again, strict=True)):
        place = stream.mixture.locate(index)
        assert (one.place, one.bad) == (two.place, two.bad)
        assert bool(one.bad) == (place in bad_places)
        np.testing.assert_array_equal(one.sample.observation.state, store[one.place.episode].states[one.place.step])
        if one.bad:
            assert one.bad[0].place == place and one.place not in bad_places
            assert {bad.substitute for bad in one.bad} == {one.place}
            assert f"episode 'e1', step {place.step}: store episode 1, camera 'external', frame" in str(one.bad[0])
        else:
            assert one.place == place
    assert sum(bool(one.bad) for one in drawn) > 10


def test_where_everything_is_broken_nothing_is_drawn(store):
    store = damaged(store, [(e, t) for e in range(3) for t in range(30)])
    with pytest.raises(UnreadableError, match=r"sample 7 cannot be read, nor can 8 .*: .*store, episode 'e.', step"):
        SampleStream([store], seed=3, horizon=4).draw(7)


def test_a_reader_that_stumbles_once_is_asked_again(store, monkeypatch):
    calls = []
    read = EpisodeStore.__getitem__

    def stumble(self, index):
        calls.append(index)
        if len(calls) == 1:
            raise ValueError("the network drive is away")
        return read(self, index)

    monkeypatch.setattr(EpisodeStore, "__getitem__", stumble)
    stream = SampleStream([store], seed=3, horizon=4, decoded_cache_bytes=0)
    drawn = stream.draw(5)
    assert drawn.place == stream.mixture.locate(5) and not drawn.bad and len(calls) == 2


@pytest.mark.parametrize("error", [TypeError, KeyboardInterrupt, MemoryError])
def test_what_is_no_damage_passes(store, monkeypatch, error):
    def fail(self, index):
        raise error("no damage")

    monkeypatch.setattr(EpisodeStore, "__getitem__", fail)
    with pytest.raises(error, match="no damage"):
        SampleStream([store], seed=3, horizon=4, decoded_cache_bytes=0).draw(5)


def test_deviation_is_that_of_the_episode(store):
    stream = SampleStream([store], seed=3, horizon=4)
    np.testing.assert_allclose(stream.state_deviation(Place(0, 2, 5)), store[2].states.astype(float).std(axis=0))


def test_norm_is_that_of_the_episode(store):
    stream = SampleStream([store], seed=3, horizon=4)
    expected = np.sqrt(np.mean(store[2].states.astype(float) ** 2, axis=0))
    np.testing.assert_allclose(stream.state_norm(Place(0, 2, 5)), expected)


def test_a_sample_is_described_by_where_it_comes_from(store):
    stream = SampleStream([store], seed=3, horizon=4)
    _, episode, step = stream.mixture.locate(11)
    assert stream.describe(11) == f"sample 11 ({Path(store.path)}, episode 'e{episode}', step {step})"


def test_steps_at_which_a_person_acted_are_drawn_more_often(tmp_path, robot, episode):
    actor = np.ones(9, dtype=np.int64)
    actor[3:5] = 2
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(name="plain"))
        store.add(episode(name="corrected", actor_of_step=actor))
    for limit in (0, store.decoded_bytes):
        stream = SampleStream([store], seed=0, horizon=4, operator_fraction=1.0, decoded_cache_bytes=limit)
        assert {stream.mixture.locate(index) for index in range(50)} == {Place(0, 1, 3), Place(0, 1, 4)}
