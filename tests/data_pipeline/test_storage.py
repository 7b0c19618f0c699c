"""pytest tests/data_pipeline/test_storage.py"""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipeline.frames import JpegFrames, decode_jpeg, encode_frames, encode_jpeg
from data_pipeline.selection import find_stores
from data_pipeline.shards import Profile, read_entries, stage_episode
from data_pipeline.stats import Moments
from data_pipeline.storage import EpisodeStore
from data_pipeline.transforms.images import resize


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


def test_coded_frames_keep_their_bytes(tmp_path, robot, episode, pictures):
    frames = encode_frames(pictures(9))
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(images={"external": frames, "left_wrist": pictures(9, height=8)}))
    read = EpisodeStore.open(tmp_path / "store")[0].images
    assert list(read["external"].encoded) == list(frames.encoded)
    assert read["left_wrist"][0].shape == (8, 24, 3)


def test_pictures_are_stored_as_any_tool_shows_them(tmp_path, robot, episode, pictures):
    reversed_colours = JpegFrames(encode_frames(pictures(9)[..., ::-1]).encoded, colour="bgr")
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(images={"external": reversed_colours}))
    read = EpisodeStore.open(tmp_path / "store")[0].images["external"]
    assert read.colour == "rgb"
    assert np.abs(np.stack(list(read)).astype(int) - pictures(9)).max() <= 6


def test_large_pictures_are_reduced_once(tmp_path, robot, episode, pictures):
    large = pictures(3, height=30, width=41)
    small = Profile(long_side_px=20)
    with EpisodeStore.create(tmp_path / "store", robot, profile=small) as store:
        store.add(episode(num_steps=3, images={"external": large, "left_wrist": pictures(3, height=20, width=9)}))
    read = EpisodeStore.open(tmp_path / "store")[0].images
    assert read["left_wrist"][0].shape == (20, 9, 3)
    np.testing.assert_array_equal(read["external"][1], decode_jpeg(encode_jpeg(resize(large[1], 15, 20))))
    with pytest.raises(ValueError, match="was made with Profile"):
        EpisodeStore.create(store.path, robot, profile=Profile())


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


def contents(store) -> dict[str, bytes]:
    return {p.relative_to(store.path).as_posix(): p.read_bytes() for p in store.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("file_megabytes", "reached"), [*((256, n) for n in range(10)), *((0.02, n) for n in range(0, 16, 3))]
)
def test_a_writer_killed_anywhere_ends_with_the_same_bytes(
    tmp_path, robot, episode, monkeypatch, file_megabytes, reached
):
    """Killed at its n-th rename, in the second of two sessions; then repeated."""
    profile = Profile(file_megabytes=file_megabytes)
    episodes = [episode(num_steps=20 + i, seed=i, name=f"e{i}") for i in range(4)]

    def write(name: str) -> EpisodeStore:
        for part in (episodes[:1], episodes):
            with EpisodeStore.create(tmp_path / name, robot, profile=profile) as store:
                for one in part:
                    if one.name not in store.names:
                        store.add(one)
        return store

    class KillError(BaseException):
        pass

    count, rename = 0, Path.replace

    def killed(self, target):
        nonlocal count
        count += 1
        if count > reached + 8:  # the first session has eight
            raise KillError
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        try:
            write("killed")
        except KillError:
            names = EpisodeStore.open(tmp_path / "killed").names
            assert names == tuple(f"e{i}" for i in range(len(names))) and names
            for read, written in zip(EpisodeStore.open(tmp_path / "killed"), episodes, strict=False):
                np.testing.assert_array_equal(read.states, written.states)
                assert read.images["external"][-1].shape == (16, 24, 3)
    assert contents(write("killed")) == contents(write("whole"))


def test_leftovers_of_a_killed_writer_are_cleared(store, robot):
    leftovers = [
        store.path / folder / ".a.parquet.tmp-0123abcd.parquet"
        for folder in ("incoming", "data/chunk-000", "meta", "meta/episodes/chunk-000")
    ]
    for leftover in leftovers:
        leftover.parent.mkdir(exist_ok=True)
        leftover.touch()
    EpisodeStore.create(store.path, robot)
    assert not any(leftover.exists() for leftover in leftovers)


def test_episodes_of_other_processes_are_adopted(store, episode, tmp_path):
    stage_episode(tmp_path / "other.parquet", episode(name="e3"), store.profile, source={"file": "x"})
    with store:
        assert store.adopt(tmp_path / "other.parquet") == ()
        early = store[3]
    assert EpisodeStore.open(store.path).sources["e3"] == {"file": "x"}
    assert early.images["external"][0].shape == (16, 24, 3)  # read after the file it came from is gone


def test_episodes_read_the_same_before_and_after_a_flush(tmp_path, robot, episode):
    store = EpisodeStore.create(tmp_path / "store", robot)
    store.add(episode(num_steps=40, name="a"))
    store.add(episode(num_steps=5, seed=1, name="b"))
    before = store.decoded()
    store.flush()
    for one, other in zip(before, EpisodeStore.open(store.path).decoded(), strict=True):
        np.testing.assert_array_equal(one.states, other.states)
        np.testing.assert_array_equal(one.images["external"], other.images["external"])


@pytest.mark.parametrize("file_megabytes", [256, 0.02])
def test_cameras_and_columns_may_come_later(tmp_path, robot, episode, pictures, file_megabytes):
    with EpisodeStore.create(tmp_path / "store", robot, profile=Profile(file_megabytes=file_megabytes)) as store:
        store.add(episode(num_steps=20, name="a"))
    with store:
        images = {"external": pictures(20), "left_wrist": pictures(20, seed=5)}
        store.add(episode(num_steps=20, name="b", images=images), native={"obs/x": np.arange(20.0)})
        store.add(episode(num_steps=20, name="c", images={"left_wrist": pictures(20, seed=6)}))
    opened = EpisodeStore.open(store.path)
    assert [sorted(e.images) for e in opened] == [["external"], ["external", "left_wrist"], ["left_wrist"]]
    assert [list(opened.native(i)) for i in range(3)] == [[], ["obs/x"], []]
    for read, seed in ((opened[1], 5), (opened[2], 6)):
        assert np.abs(read.images["left_wrist"][19].astype(int) - pictures(20, seed=seed)[19]).max() <= 4
    schemas = [pq.read_schema(path) for path in (store.path / "data").rglob("*.parquet")]
    assert len({(str(one.remove_metadata()), one.metadata[b"huggingface"]) for one in schemas}) == 1


def test_a_data_file_says_itself_which_episodes_it_holds(store):
    files = sorted((store.path / "data").rglob("*.parquet"))
    assert [entry for path in files for entry in read_entries(path)] == list(store.entries)


NATIVE = {
    "observations/qpos": np.arange(18, dtype=np.float64).reshape(9, 2) / 7,
    "half": np.linspace(0, 1, 9).astype(np.float16),
    "one": np.arange(9, dtype=np.int32).reshape(9, 1),
    "matrix": np.arange(9 * 16, dtype=np.float32).reshape(9, 4, 4),
    "flag": np.arange(9) % 2 == 0,
    "text": np.array(["pick", "grüße"] * 4 + [""], dtype=object),
    "/topic/code": np.arange(9 * 3, dtype=np.uint8).reshape(9, 3),
}


def test_the_sources_own_columns_come_back(tmp_path, robot, episode):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(name="a"), native=NATIVE)
        store.add(episode(num_steps=4, name="b"), native={key: values[:4] for key, values in NATIVE.items()})
    for index, length in ((0, 9), (1, 4)):
        native = EpisodeStore.open(store.path).native(index)
        assert set(native) == set(NATIVE)
        for key, values in NATIVE.items():
            np.testing.assert_array_equal(native[key], values[:length])
            assert native[key].dtype == values.dtype
    with pytest.raises(ValueError, match=r"source\.half is float32 \[1\], the store's other episodes have float16"):
        store.add(episode(name="c"), native={"half": np.zeros(9, np.float32)})
    assert len(EpisodeStore.open(store.path)) == 2
    with pytest.raises(ValueError, match="source field 'half' has 3 rows for 9 steps"):
        store.add(episode(name="c"), native={"half": np.zeros(3)})
    with pytest.raises(ValueError, match="is there twice"):
        store.add(episode(name="c"), native={"a/b": np.zeros(9), "a.b": np.zeros(9)})


def test_what_is_said_of_single_steps_comes_back(tmp_path, robot, episode):
    valid, phrase = np.arange(9) < 7, np.arange(9) % 2
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        actor = np.arange(9) % 3
        store.add(episode(name="a", action_valid=valid, instruction_weights=(0.9, 0.1), actor_of_step=actor))
        store.add(episode(name="b", image_masks={"external": ~valid}, instruction_of_step=phrase), max_steps=4)
        store.add(episode(name="c", action_valid=np.ones(9, bool)))
        for _ in range(2):  # staged, then joined
            first, second, third = store
            np.testing.assert_array_equal(first.action_valid, valid)
            np.testing.assert_array_equal(first.actor_of_step, actor)
            np.testing.assert_array_equal(second.image_masks["external"], ~valid)
            np.testing.assert_array_equal(second.instruction_of_step, phrase)
            assert (first.image_masks, first.instruction_of_step, first.instruction_weights) == ({}, None, (0.9, 0.1))
            assert (second.action_valid, second.actor_of_step, second.instruction_weights) == (None, None, ())
            assert (third.image_masks, third.action_valid) == ({}, None)
            assert [entry.max_steps for entry in store.entries] == [None, 4, None]
            store.flush()


def test_annotations_come_back_and_stay_absent_where_there_are_none(tmp_path, robot, episode):
    values = np.linspace(-1, 1, 9, dtype=np.float32)
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(name="a"))
        store.add(episode(name="b", annotations={"operator_valence": values, "operator_valence.confidence": values**2}))
        for _ in range(2):  # staged, then joined
            first, second = store
            assert first.annotations == {}
            assert list(second.annotations) == ["operator_valence", "operator_valence.confidence"]
            np.testing.assert_array_equal(second.annotations["operator_valence"], values)
            np.testing.assert_array_equal(second.annotations["operator_valence.confidence"], values**2)
            store.flush()
    column = pq.read_table(next((tmp_path / "store/data").rglob("*.parquet")))["annotation.operator_valence"]
    assert column.null_count == 9


def test_instructions_of_all_episodes_each_once(tmp_path, robot, episode):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        store.add(episode(name="a", instructions=("pour", "fill")))
        store.add(episode(name="b", instructions=("fill", "wipe")))
    assert EpisodeStore.open(tmp_path / "store").instructions == ("pour", "fill", "wipe")


def test_the_index_is_made_again_where_it_is_missing_or_another_files(store):
    pictures = [np.stack(list(e.images["external"])) for e in store]
    index = store.path / "index/chunk-000/file-000.arrow"
    stale = index.read_bytes()
    with store:
        store.add(dataclasses.replace(store[0], name="again"))
    for content in (None, stale, b"", stale[:300]):
        index.unlink(missing_ok=True)
        if content is not None:
            index.write_bytes(content)
        for before, episode in zip(pictures, EpisodeStore.open(store.path), strict=False):
            np.testing.assert_array_equal(before, np.stack(list(episode.images["external"])))


def test_a_store_travels_to_another_process(store):
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy[1].images["external"][2], store[1].images["external"][2])


def test_a_store_without_a_robot_description(tmp_path, episode):
    with EpisodeStore.create(tmp_path / "store", None, robot_type="franka") as store:
        store.add(episode())
    opened = EpisodeStore.open(store.path)
    assert opened.robot_type == "franka" and opened[0].num_steps == 9
    with pytest.raises(ValueError, match="without a robot description"):
        _ = opened.embodiment


def test_frames_by_the_index_are_those_of_parquet(store):
    table = pq.read_table(store.path / "data")
    stored = [picture["bytes"] for picture in table["observation.images.external"].to_pylist()]
    assert stored == [jpeg for episode in store for jpeg in episode.images["external"].encoded]
    states = np.array(table["observation.state"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(states, np.concatenate([episode.states for episode in store]))


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
def test_a_damaged_file_is_named(tmp_path, robot, episode, keep):
    with EpisodeStore.create(tmp_path / "store", robot, profile=Profile(file_megabytes=0.001)) as store:
        for i in range(3):
            store.add(episode(seed=i, name=f"e{i}"))
    file = store.path / "data/chunk-000/file-001.parquet"
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    opened = EpisodeStore.open(store.path)
    assert opened[0].name == "e0" and opened[2].images["external"][0].shape == (16, 24, 3)
    with pytest.raises(ValueError, match=r"file-001\.parquet is missing or damaged"):
        opened[1]


@pytest.mark.parametrize("file", ["meta/info.json", "meta/episodes/chunk-000/file-000.parquet"])
def test_damaged_metadata_are_named(store, file):
    (store.path / file).write_bytes(b"{")
    with pytest.raises(ValueError, match="meta is missing or damaged"):
        EpisodeStore.open(store.path)


def test_statistics_are_those_of_all_steps(store):
    states = np.concatenate([e.states for e in store])
    expected = Moments.of(states, store.embodiment.mask).finish()
    assert store.stats("state").to_dict() == expected.to_dict()
    assert store.stats("action").count.max() == 15


def test_the_datasets_statistics_are_of_all_rows(tmp_path, robot, episode, monkeypatch):
    with EpisodeStore.create(tmp_path / "store", robot, profile=Profile(file_megabytes=0.001)) as store:
        for i in range(3):
            store.add(episode(num_steps=20, seed=i, name=f"e{i}"))
    states = np.concatenate([one.states for one in store])
    stats = json.loads((store.path / "meta/stats.json").read_text())["observation.state"]
    for name, expected in (("mean", states.mean(axis=0, dtype=np.float64)), ("q99", np.quantile(states, 0.99, axis=0))):
        np.testing.assert_allclose(stats[name], expected, atol=1e-6)
    monkeypatch.setattr("data_pipeline.store_tables._QUANTILE_ROWS", 31)
    with store:
        store.add(episode(num_steps=2, seed=9, name="last"))
    states = np.concatenate([one.states for one in store])
    stats = json.loads((store.path / "meta/stats.json").read_text())["observation.state"]
    np.testing.assert_allclose(stats["mean"], states.mean(axis=0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(stats["q50"], np.quantile(states[[*range(0, 60, 2), 60]], 0.5, axis=0), atol=1e-6)


def test_episodes_are_counted_from_either_end(store):
    assert store[-2].name == "e1"
    with pytest.raises(IndexError):
        store[3]


def test_stores_are_found_by_their_folder(tmp_path, robot):
    for name in ("b", "a"):
        EpisodeStore.create(tmp_path / "all" / name, robot)
    (tmp_path / "all" / "notes").mkdir()
    assert find_stores(tmp_path / "all") == [tmp_path / "all" / "a", tmp_path / "all" / "b"]
    assert find_stores(tmp_path / "all" / "a") == [tmp_path / "all" / "a"]
    with pytest.raises(ValueError, match="notes is no episode store and holds none: expected"):
        find_stores(tmp_path / "all" / "notes")
    with pytest.raises(ValueError, match="there is no such folder"):
        find_stores(tmp_path / "nowhere")
