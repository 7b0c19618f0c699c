"""pytest tests/data_pipeline/export/test_lerobot.py"""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipeline.export import lerobot
from data_pipeline.export.exports import export
from data_pipeline.export.lerobot import ANNOTATION, VideoCoding, _modality, export_lerobot
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.sources.lerobot import LeRobotSource
from data_pipeline.sources.raw import RawEpisode
from data_pipeline.storage import EpisodeStore
from tests.lerobot_rules import check_v2, check_v3

LENGTHS = (5, 7, 6)


@pytest.fixture
def store(tmp_path, robot, episode, pictures):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        for seed, length in enumerate(LENGTHS):
            images = {"external": pictures(length, seed), "left_wrist": pictures(length, seed + 10)}
            one = episode(num_steps=length, seed=seed, name=f"e{seed}", images=images)
            store.add(one, native=native_columns(length, seed))
    return store


def native_columns(length: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "observation.state": rng.standard_normal((length, 3)).astype(np.float32),
        "action": rng.standard_normal((length, 3)).astype(np.float32),
        "next.reward": rng.standard_normal(length),
        "next.done": np.arange(length) == length - 1,
        "pose": rng.standard_normal((length, 4, 4)).astype(np.float32),
        "note": np.array([f"step {i}" for i in range(length)], dtype=object),
        "task": np.array(["pick up the cup"] * length, dtype=object),
    }


def read(folder) -> list[RawEpisode]:
    source = LeRobotSource(folder)
    episodes = [episode for shard in source.shards() for episode in source.read(shard)]
    assert all(isinstance(episode, RawEpisode) for episode in episodes), episodes
    return episodes


CHECKS = {"v3.0": check_v3, "v2.1": check_v2}
FORMS = [(version, visual) for version in CHECKS for visual in ("image", "video")]


@pytest.mark.parametrize(("version", "visual"), FORMS)
@pytest.mark.parametrize("vectors", ["native", "unified", "source"])
def test_exports_keep_every_rule_and_every_number(tmp_path, store, robot, version, visual, vectors):
    export_lerobot(store, tmp_path / "out", version=version, visual=visual, vectors=vectors)
    rows = CHECKS[version](tmp_path / "out")
    assert [len(row["columns"]["index"]) for row in rows] == list(LENGTHS)
    for number, (ours, raw) in enumerate(zip(store, read(tmp_path / "out"), strict=True)):
        expected = {
            "native": {"observation.state": robot.from_unified(ours.states, "state").astype(np.float32)},
            "unified": {"observation.state": ours.states, "action": ours.actions},
            "source": {k: v for k, v in native_columns(ours.num_steps, number).items() if k != "task"},
        }[vectors]
        for key, values in expected.items():
            np.testing.assert_array_equal(raw.fields[key], values)
        assert tuple(raw.metadata["episode_metadata/tasks"]) == ours.instructions
        assert set(raw.fields["task"]) == {ours.instructions[0]}
        for role, frames in ours.images.items():
            theirs = raw.images[f"observation.images.{role}"]
            assert len(theirs) == ours.num_steps
            error = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, theirs, strict=True)]
            assert max(error) <= (0 if visual == "image" else 4)


def test_versions_to_and_fro_keep_every_number(tmp_path, store, robot):
    """Source -> v2.1 -> store -> v3.0 -> store -> v2.1: bit for bit."""
    folder, forms = tmp_path / "first", ("v2.1", "v3.0", "v2.1")
    export_lerobot(store, folder, version="v2.1", vectors="source")
    first, store_before = read(folder), store
    for i, version in enumerate(forms):
        with EpisodeStore.create(tmp_path / f"store{i}", robot) as again:
            for raw, ours in zip(read(folder), store_before, strict=True):
                images = {role: raw.images[f"observation.images.{role}"] for role in ours.images}
                again.add(dataclasses.replace(ours, images=images), native=raw.fields)
        folder, store_before = tmp_path / f"out{i}", again
        export_lerobot(again, folder, version=version, vectors="source")
    for one, other in zip(first, read(folder), strict=True):
        assert list(one.fields) == list(other.fields) and one.metadata == other.metadata
        for key, values in one.fields.items():
            np.testing.assert_array_equal(values, other.fields[key])
            assert values.dtype == other.fields[key].dtype
        for key, frames in one.images.items():
            assert list(frames.encoded) == list(other.images[key].encoded)


def test_files_close_at_their_size(tmp_path, store, monkeypatch):
    monkeypatch.setattr(lerobot, "_DATA_MEGABYTES", 0)
    monkeypatch.setattr(lerobot, "_VIDEO_MEGABYTES", 0)
    monkeypatch.setattr(lerobot, "_EPISODES_A_FILE", 2)
    export_lerobot(store, tmp_path / "out", version="v3.0", visual="video", coding=VideoCoding("libsvtav1", 20, 2))
    check_v3(tmp_path / "out")
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("file-*"))
    videos = [
        f"videos/observation.images.{r}/chunk-000/file-00{i}.mp4" for r in ("external", "left_wrist") for i in range(3)
    ]
    data = [f"data/chunk-000/file-00{i}.parquet" for i in range(3)]
    assert files == [*data, *(f"meta/episodes/chunk-000/file-00{i}.parquet" for i in range(2)), *videos]
    levels = [frame.mean() for raw in read(tmp_path / "out") for frame in raw.images["observation.images.external"]]
    expected = [frame.mean() for episode in store for frame in episode.images["external"]]
    np.testing.assert_allclose(levels, expected, atol=3)


def test_the_gr00t_flavour_names_the_parts(tmp_path, store):
    export(store, tmp_path / "out", "gr00t", visual="image")
    check_v2(tmp_path / "out")
    modality = json.loads((tmp_path / "out/meta/modality.json").read_text())
    parts = {"right_arm": {"start": 0, "end": 2}, "right_gripper": {"start": 2, "end": 3}}
    assert modality == {
        "state": parts,
        "action": parts,
        "video": {role: {"original_key": f"observation.images.{role}"} for role in ("external", "left_wrist")},
        "annotation": {"human.action.task_description": {}},
    }
    assert (tmp_path / "out/meta/stats.json").exists()
    assert set(read(tmp_path / "out")[1].fields[ANNOTATION]) == {"pick up the cup"}
    with pytest.raises(ValueError, match="GR00T flavour is version v2"):
        export_lerobot(store, tmp_path / "other", gr00t=True)


def test_the_gr00t_flavour_names_tools_where_a_robot_is_told_their_poses(store):
    raw = store.embodiment.to_dict()
    robot = Embodiment.from_dict({**raw, "control": "eef"})
    parts = _modality(SimpleNamespace(embodiment=robot), ())["action"]
    assert parts == {
        "right_tool": {"start": 0, "end": 9},
        "right_gripper": {"start": 9, "end": 10},
        "right_arm": {"start": 10, "end": 12},
    }


def test_the_store_itself_keeps_every_rule(store):
    check_v3(store.path)
    raw = read(store.path)
    np.testing.assert_array_equal(raw[2].fields["observation.state"], store[2].states)
    assert list(raw[2].images["observation.images.external"].encoded) == list(store[2].images["external"].encoded)


def test_the_datasets_library_opens_the_store(store, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted((store.path / "data").rglob("*.parquet"))]
    rows = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert len(rows) == sum(LENGTHS)
    for step, at in ((0, 0), (6, 1), (17, 5)):
        episode = store[int(rows[step]["episode_index"])]
        np.testing.assert_array_equal(
            np.array(rows[step]["observation.images.external"]), episode.images["external"][at]
        )
        np.testing.assert_array_equal(np.array(rows[step]["action"], dtype=np.float32), episode.actions[at])


def test_the_datasets_library_opens_matrices_and_missing_pictures(store, tmp_path, episode, pictures):
    datasets = pytest.importorskip("datasets")
    with store:
        store.add(episode(name="blind", images={"external": pictures(9)}), native=native_columns(9, 3))
    rows = datasets.Dataset.from_parquet(str(store.path / "data/chunk-000/file-000.parquet"), cache_dir=str(tmp_path))
    assert rows[20]["observation.images.left_wrist"] is None
    np.testing.assert_array_equal(np.float32(rows[20]["source.pose"]), native_columns(9, 3)["pose"][2])


def test_what_cannot_be_exported_is_told(tmp_path, store, episode, pictures):
    with store:
        store.add(episode(name="blind", images={"external": pictures(9)}))
    with pytest.raises(ValueError, match=r"camera 'left_wrist' is there in 3 of 4 episodes.*\['external'\]"):
        export_lerobot(store, tmp_path / "out")
    with pytest.raises(ValueError, match="lacks the source's columns"):
        export_lerobot(store, tmp_path / "out", cameras=["external"], vectors="source")
    export_lerobot(store, tmp_path / "out", cameras=["external"])
    assert [sorted(raw.images) for raw in read(tmp_path / "out")] == [["observation.images.external"]] * 4
    with pytest.raises(FileExistsError):
        export_lerobot(store, tmp_path / "out", cameras=["external"])
    for wrong in ({"version": "v4"}, {"visual": "gif"}, {"vectors": "raw"}):
        with pytest.raises(ValueError, match="must be"):
            export_lerobot(store, tmp_path / "other", cameras=["external"], **wrong)
    with store:
        store.add(episode(name="slow", rate_hz=5.0))
    with pytest.raises(ValueError, match=r"episode .slow. has 5\.0 Hz"):
        export_lerobot(store, tmp_path / "other", cameras=["external"])
    assert not (tmp_path / "other").exists()


def test_a_camera_of_two_sizes_is_told(tmp_path, store, episode, pictures):
    with store:
        images = {role: pictures(9, height=8) for role in ("external", "left_wrist")}
        store.add(episode(name="small", images=images))
    with pytest.raises(ValueError, match="'small' has other"):
        export_lerobot(store, tmp_path / "out")


def test_unknown_formats_name_the_nearest(tmp_path, store):
    with pytest.raises(ValueError, match=r"did you mean 'lerobot-v3\.0'"):
        export(store, tmp_path / "out", "lerobot-v3")
