"""pytest tests/data_pipeline/test_storage.py"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipeline.frames import JpegFrames, encode_frames
from data_pipeline.stats import Moments
from data_pipeline.storage import EpisodeStore


@pytest.fixture
def store(tmp_path, robot, episode):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        for i in range(3):
            store.add(episode(num_steps=4 + i, seed=i, name=f"e{i}"), {"file": f"e{i}.hdf5"})
    return store


def test_what_goes_in_comes_out(store, episode, robot):
    opened = EpisodeStore.open(store.path)
    assert len(opened) == 3 and opened.names == ("e0", "e1", "e2") and opened.episode_lengths == (4, 5, 6)
    assert opened.embodiment == robot and opened.sources["e1"] == {"file": "e1.hdf5"}
    for i, read in enumerate(opened):
        written = episode(num_steps=4 + i, seed=i, name=f"e{i}")
        for field in dataclasses.fields(written):
            if field.name == "images":
                difference = np.stack(list(read.images["external"])).astype(int) - written.images["external"]
                assert np.abs(difference).max() <= 4
            else:
                np.testing.assert_array_equal(getattr(read, field.name), getattr(written, field.name))


def test_instructions_of_all_episodes_each_once(tmp_path, robot, episode):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(name="a", instructions=("pour", "fill")))
        store.add(episode(name="b", instructions=("fill", "wipe")))
    assert EpisodeStore.open(tmp_path / "store").instructions == ("pour", "fill", "wipe")


def test_coded_frames_keep_their_bytes_and_colour(tmp_path, robot, episode, pictures):
    frames = JpegFrames(encode_frames(pictures(9)).encoded, colour="bgr")
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(images={"external": frames, "left_wrist": pictures(9, height=8)}))
    read = EpisodeStore.open(tmp_path / "store")[0].images
    assert read["external"].encoded == list(frames.encoded) and read["external"].colour == "bgr"
    assert read["left_wrist"][0].shape == (8, 24, 3)


def test_decoded_episodes_hold_arrays(store):
    decoded = store.decoded()
    assert sum(e.images["external"].nbytes for e in decoded) == store.decoded_bytes
    for lazy, whole in zip(store, decoded, strict=True):
        np.testing.assert_array_equal(np.stack(list(lazy.images["external"])), whole.images["external"])
        with pytest.raises(ValueError, match="read-only"):
            whole.images["external"][0] = 0


def test_an_interrupted_writer_loses_nothing_that_it_added(tmp_path, robot, episode):
    store = EpisodeStore.create(tmp_path / "store", robot)
    store.add(episode(name="a"))
    store.add(episode(name="b"))  # killed here: the table on disk was never renewed
    assert EpisodeStore.open(tmp_path / "store").names == ("a", "b")
    with EpisodeStore.create(tmp_path / "store", robot) as again:
        again.add(episode(name="c"))
    assert EpisodeStore.open(tmp_path / "store").names == ("a", "b", "c")


def test_leftovers_of_a_killed_writer_are_cleared(store, robot):
    leftover = store.path / "episodes" / ".000009.npz.tmp-0123abcd.npz"
    leftover.touch()
    EpisodeStore.create(store.path, robot)
    assert not leftover.exists()


def test_a_name_is_added_once(store, episode):
    with pytest.raises(ValueError, match="named 'e0' already"):
        store.add(episode(name="e0"))


def test_a_camera_keeps_its_size(store, episode, pictures):
    frames = [*pictures(4), *pictures(5, height=8)]
    with pytest.raises(ValueError, match=r"'external' changes its size: \[\(8, 24, 3\), \(16, 24, 3\)\]"):
        store.add(episode(name="zoom", images={"external": frames}))


def test_another_robot_needs_another_store(store, robot):
    with pytest.raises(ValueError, match="another description of robot 'tiny'"):
        EpisodeStore.create(store.path, dataclasses.replace(robot, rate_hz=50))


def test_folders_of_something_else_are_left_alone(tmp_path, robot):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ValueError, match="is no episode store"):
        EpisodeStore.create(tmp_path, robot)
    with pytest.raises(FileNotFoundError, match=r"has no store\.json"):
        EpisodeStore.open(tmp_path)
    (tmp_path / "store.json").write_text('{"format": "zip"}')
    with pytest.raises(ValueError, match="has format 'zip'"):
        EpisodeStore.open(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        EpisodeStore.open(tmp_path)


@pytest.mark.parametrize("keep", [0, 0.5, 0.95])
def test_a_damaged_shard_is_named(store, keep):
    shard = store.path / "episodes" / "000001.npz"
    shard.write_bytes(shard.read_bytes()[: int(keep * shard.stat().st_size)])
    opened = EpisodeStore.open(store.path)
    assert opened[0].name == "e0"
    with pytest.raises(ValueError, match=r"000001\.npz is missing or damaged"):
        opened[1]


def test_statistics_are_those_of_all_steps(store):
    states = np.concatenate([e.states for e in store])
    expected = Moments.of(states, store.embodiment.mask).finish()
    assert store.stats("state").to_dict() == expected.to_dict()
    assert store.stats("action").count.max() == 15


def test_recently_read_episodes_are_kept(store, monkeypatch):
    assert store[1] is store[1] and store[-2] is store[1]
    monkeypatch.setattr("data_pipeline.storage._CACHE_BYTES", 1)
    first = store[0]
    assert store[2].name == "e2" and store[0] is not first
    with pytest.raises(IndexError):
        store[3]
