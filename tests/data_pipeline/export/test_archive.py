"""pytest tests/data_pipeline/export/test_archive.py"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.export.archive import archive, restore
from data_pipeline.export.exports import EXPORTS, export
from data_pipeline.shards import Profile
from data_pipeline.storage import EpisodeStore
from tests.lerobot_rules import check_v3


@pytest.fixture
def store(tmp_path, robot, episode, pictures):
    with EpisodeStore.create(tmp_path / "store", robot, profile=Profile(jpeg_quality=90)) as store:
        store.add(episode(name="a"), {"file": "a.hdf5"})
        both = {"external": pictures(7, 1), "left_wrist": pictures(7, 2)}
        native = {"obs/qpos": np.random.default_rng(0).standard_normal((7, 1)), "text": np.array(["x"] * 7, object)}
        store.add(
            episode(
                num_steps=7,
                name="b",
                images=both,
                instructions=("wave",),
                action_offset_steps=0,
                action_valid=np.arange(7) < 5,
                image_masks={"left_wrist": np.arange(7) > 0},
                annotations={"operator_valence": np.linspace(-1, 1, 7, dtype=np.float32)},
            ),
            native=native,
            max_steps=5,
        )
    return store


def test_a_store_comes_back_from_its_archive(tmp_path, store):
    export(store, tmp_path / "archive", "archive")
    assert restore(tmp_path / "archive", tmp_path / "again") == []
    again = EpisodeStore.open(tmp_path / "again")
    assert again.names == store.names and again.sources == store.sources
    assert (again.embodiment, again.profile) == (store.embodiment, store.profile)
    for i, (one, other) in enumerate(zip(store, again, strict=True)):
        for name in ("states", "actions", "state_mask", "action_mask"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.instructions, one.rate_hz) == (other.instructions, other.rate_hz)
        assert one.action_offset_steps == other.action_offset_steps and list(one.images) == list(other.images)
        for role in one.images:
            for a, b in zip(one.images[role], other.images[role], strict=True):
                assert np.abs(a.astype(int) - b).mean() < 5
        assert store.entries[i].max_steps == again.entries[i].max_steps
        before, after = store.native(i), again.native(i)
        assert list(before) == list(after)
        for key, values in before.items():
            np.testing.assert_array_equal(values, after[key])
            assert values.dtype == after[key].dtype
        np.testing.assert_array_equal(one.action_valid, other.action_valid)
        assert one.image_masks.keys() == other.image_masks.keys()
        for role, mask in one.image_masks.items():
            np.testing.assert_array_equal(mask, other.image_masks[role])
        assert one.annotations.keys() == other.annotations.keys()
        for name, values in one.annotations.items():
            np.testing.assert_array_equal(values, other.annotations[name])


def test_an_archive_of_whole_episodes_keeps_every_rule(tmp_path, robot, episode):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        for i in range(2):
            store.add(episode(seed=i, name=f"e{i}", action_valid=np.arange(9) > 2), native={"x": np.arange(9.0)})
    archive(store, tmp_path / "archive")
    assert [row["row"]["length"] for row in check_v3(tmp_path / "archive")] == [9, 9]


def test_restoring_goes_on_and_tells_what_is_damaged(tmp_path, store):
    archive(store, tmp_path / "archive")
    with EpisodeStore.create(tmp_path / "again", store.embodiment, profile=store.profile) as again:
        again.add(store[0])
    (video,) = (tmp_path / "archive/videos/observation.images.left_wrist").rglob("*.mp4")
    video.write_bytes(video.read_bytes()[:200])
    (fault,) = restore(tmp_path / "archive", tmp_path / "again")
    assert fault.kind == "wrong_length" and "episode 1" in fault.where
    assert EpisodeStore.open(tmp_path / "again").names == ("a",)
    video.unlink()
    (fault,) = restore(tmp_path / "archive", tmp_path / "again")
    assert fault.kind == "missing_camera"
    assert [list(one.images) for one in EpisodeStore.open(tmp_path / "again")] == [["external"]] * 2


def test_what_is_no_archive_is_told(tmp_path):
    with pytest.raises(ValueError, match="is no archive of a store"):
        restore(tmp_path, tmp_path / "again")


def test_an_archive_is_no_store(tmp_path, store):
    archive(store, tmp_path / "archive")
    assert not EpisodeStore.exists(tmp_path / "archive")
    with pytest.raises(FileNotFoundError, match=r"no episode store: it has no store.json"):
        EpisodeStore.open(tmp_path / "archive")


@pytest.mark.parametrize("to", EXPORTS)
def test_an_empty_store_is_exported_to_nothing(tmp_path, robot, to):
    with pytest.raises(ValueError, match="holds no episodes: there is nothing to export"):
        export(EpisodeStore.create(tmp_path / "empty", robot), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["store", "store/export"])
def test_nothing_is_exported_into_the_store_itself(tmp_path, store, out):
    before = sorted(store.path.rglob("*"))
    with pytest.raises(ValueError, match=r"is, or lies in, .*which is left as it is"):
        export(store, tmp_path / out, "archive")
    assert sorted(store.path.rglob("*")) == before
