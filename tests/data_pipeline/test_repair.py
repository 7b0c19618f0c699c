"""pytest tests/data_pipeline/test_repair.py"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from data_pipeline.lerobot_format import IMAGES
from data_pipeline.repair import is_damaged_store, repair_store
from data_pipeline.shards import Profile
from data_pipeline.storage import EpisodeStore


@pytest.fixture
def store(tmp_path, robot, episode, pictures):
    """Six episodes in three data files; the last one has not been joined yet."""
    profile = Profile(file_megabytes=0.7)
    store = EpisodeStore.create(tmp_path / "store", robot, profile=profile)
    for i in range(6):
        one = episode(num_steps=101 + i, seed=i, name=f"e{i}", images={"external": pictures(101 + i, i)})
        native = {"obs/qpos": np.full((101 + i, 2), i, np.float32)}
        store.add(one, {"file": f"{i}.hdf5"}, native=native, max_steps=50)
        if i == 4:
            store.flush()
    return store


def files(store) -> list:
    found = sorted((store.path / "data").rglob("*.parquet"))
    assert len(found) > 1
    return found


def assert_saved(store, out, names) -> EpisodeStore:
    saved = EpisodeStore.open(out)
    assert saved.names == tuple(names)
    for one in saved:
        other = store[store.names.index(one.name)]
        np.testing.assert_array_equal(one.states, other.states)
        np.testing.assert_array_equal(one.actions, other.actions)
        assert one.instructions == other.instructions
    return saved


def test_a_whole_store_comes_back(tmp_path, store):
    seen = []
    assert repair_store(store.path, tmp_path / "out", progress=seen.append) == []
    saved = assert_saved(store, tmp_path / "out", [f"e{i}" for i in range(6)])
    assert seen == list(saved.names) and saved.embodiment == store.embodiment and saved.profile == store.profile
    assert saved.sources == store.sources and [entry.max_steps for entry in saved.entries] == [50] * 6
    np.testing.assert_array_equal(saved.native(3)["obs/qpos"], store.native(3)["obs/qpos"])
    assert saved[2].images["external"].encoded[7] == store[2].images["external"].encoded[7]


@pytest.mark.parametrize("what", ["meta", "meta/info.json", "meta/episodes", "index"])
def test_lost_metadata_cost_nothing(tmp_path, store, what):
    lost = store.path / what
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    (store.path / "index").mkdir(exist_ok=True)
    assert repair_store(store.path, tmp_path / "out") == []
    assert_saved(EpisodeStore.open(tmp_path / "out"), tmp_path / "out", [f"e{i}" for i in range(6)])


def test_a_lost_header_costs_the_robot(tmp_path, store):
    (store.path / "store.json").write_text("{")
    assert is_damaged_store(store.path)
    (fault,) = repair_store(store.path, tmp_path / "out")
    assert fault.kind == "header" and not fault.left_out
    saved = EpisodeStore.open(tmp_path / "out")
    assert len(saved) == 6 and not saved.is_described


def test_of_a_cut_file_the_episodes_before_the_cut_are_saved(tmp_path, store):
    whole = EpisodeStore.open(store.path)
    first = files(store)[0]
    members = [entry.name for entry, place in zip(whole.entries, whole._places, strict=True) if place.data == first]
    assert len(members) > 1
    states = np.array(whole[0].states)
    first.write_bytes(first.read_bytes()[: first.stat().st_size * 2 // 3])
    mended, *lost = repair_store(store.path, tmp_path / "out")
    assert mended.kind == "truncated" and not mended.left_out and "by its index" in mended.message
    assert lost and {fault.kind for fault in lost} == {"lost"}
    gone = {fault.where for fault in lost}
    assert gone < set(members)
    saved = EpisodeStore.open(tmp_path / "out")
    assert set(saved.names) == set(whole.names) - gone
    assert saved.native(0) == {}
    np.testing.assert_array_equal(saved[0].states, states)


def test_a_file_without_end_and_index_is_told_by_the_names_of_its_episodes(tmp_path, store):
    whole = EpisodeStore.open(store.path)
    last = files(store)[-1]
    members = [entry.name for entry, place in zip(whole.entries, whole._places, strict=True) if place.data == last]
    last.write_bytes(b"PAR1")
    shutil.rmtree(store.path / "index")
    faults = repair_store(store.path, tmp_path / "out")
    assert [fault.where for fault in faults] == members
    assert set(EpisodeStore.open(tmp_path / "out").names) == set(whole.names) - set(members)


@pytest.mark.parametrize(("broken", "saved"), [(1, True), (5, False)])
def test_a_few_broken_pictures_are_masked_many_lose_the_episode(tmp_path, store, broken, saved):
    pictures = [store.jpeg(0, IMAGES + "external", step) for step in range(3, 3 + broken)]
    first = files(store)[0]
    content = first.read_bytes()
    for picture in pictures:
        content = content.replace(picture, picture[:-2] + b"\0\0")
    first.write_bytes(content)
    (fault,) = repair_store(store.path, tmp_path / "out")
    after = EpisodeStore.open(tmp_path / "out")
    assert ("e0" in after.names) == saved and len(after) == 5 + saved
    assert fault.kind == ("bad_image" if saved else "lost")
    if saved:
        assert np.flatnonzero(~after[0].image_masks["external"]).tolist() == [3]
        assert (after[0].images["external"][3] == 127).all()


def test_a_broken_staged_episode_is_told_and_those_after_it_are_saved(tmp_path, store, episode):
    store.add(episode(name="e6"))
    staged = sorted((store.path / "incoming").glob("*.parquet"))
    staged[0].write_bytes(b"PAR1")
    (fault,) = repair_store(store.path, tmp_path / "out")
    assert fault.kind == "lost" and staged[0].name in fault.where
    assert EpisodeStore.open(tmp_path / "out").names == ("e0", "e1", "e2", "e3", "e4", "e6")


def test_nothing_of_the_damaged_store_changes(tmp_path, store):
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    repair_store(store.path, tmp_path / "out")
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("out", ["store", "store/repaired"])
def test_no_store_is_repaired_into_itself(tmp_path, store, out):
    with pytest.raises(ValueError, match=r"is, or lies in, .*which is left as it is"):
        repair_store(store.path, tmp_path / out)


def test_a_store_of_other_episodes_is_not_added_to(tmp_path, store, robot, episode):
    with EpisodeStore.create(tmp_path / "out", robot, profile=store.profile) as other:
        other.add(episode(name="another"))
    with pytest.raises(ValueError, match=r"holds episodes that .* does not name: write into a new folder"):
        repair_store(store.path, tmp_path / "out")
    assert EpisodeStore.open(tmp_path / "out").names == ("another",)


def test_a_store_that_is_none_is_not_taken_for_one(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps({}))
    assert not is_damaged_store(tmp_path)
