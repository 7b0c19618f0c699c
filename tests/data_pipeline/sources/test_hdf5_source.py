"""pytest tests/data_pipeline/sources/test_hdf5_source.py: HDF5 files as records for a mapping."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from data_pipeline.frames import encode_jpeg
from data_pipeline.mapping.mapping import Mapping
from data_pipeline.schema.registry import find_config
from data_pipeline.sources.hdf5 import SIDECAR_NAME, Hdf5Source, write_episode
from data_pipeline.sources.raw import Fault, RawEpisode

STEPS = 40
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def write(path, *, coding="padded", instruction="go", bgr=True, attributes=None, seed=0):
    """One ALOHA file; returns its arrays and true-RGB frames by camera."""
    rng = np.random.default_rng(seed)
    arrays = {key: rng.uniform(0, 1, (STEPS, 14)) for key in ("action", "observations/qpos", "observations/qvel")}
    arrays["base_action"] = rng.uniform(-1, 1, (STEPS, 2))
    frames = {name: np.full((STEPS, 8, 12, 3), (200 - 50 * i, 30, 60), np.uint8) for i, name in enumerate(CAMERAS)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values.astype(np.float32)
        for name, pictures in frames.items():
            key = f"observations/images/{name}"
            if coding == "raw":
                file[key] = pictures
                continue
            jpegs = [encode_jpeg(frame[..., ::-1] if bgr else frame) for frame in pictures]
            if coding == "bytes":
                file[key] = np.array(jpegs, dtype=f"S{max(map(len, jpegs))}")
            elif coding == "variable":
                dataset = file.create_dataset(key, (STEPS,), dtype=h5py.vlen_dtype(np.uint8))
                for i, jpeg in enumerate(jpegs):
                    dataset[i] = np.frombuffer(jpeg, np.uint8)
            else:
                width = max(map(len, jpegs)) + 5
                rows = [np.frombuffer(jpeg.ljust(width, b"\0"), np.uint8) for jpeg in jpegs]
                file[key] = np.stack(rows)
        file["compress_len"] = np.zeros((3, STEPS))
        if instruction is not None:
            file["instruction"] = instruction
        file.attrs.update(attributes or {})
    return arrays, frames


def records(root, glob="**/*.hdf5"):
    source = Hdf5Source(root, glob)
    return [result for shard in source.shards() for result in source.read(shard)]


@pytest.mark.parametrize("coding", ["padded", "bytes", "variable", "raw"])
def test_every_coding_gives_the_same_episode(tmp_path, coding):
    arrays, frames = write(tmp_path / "a.hdf5", coding=coding)
    source = Hdf5Source(tmp_path)
    mapping = Mapping.from_yaml(find_config("datasets", "aloha_mobile"), source.fields())
    (raw,) = source.read(source.shards()[0])
    (result,) = mapping.apply(raw)
    np.testing.assert_allclose(result.episode.states[:, :6], arrays["observations/qpos"][:, 7:13], atol=1e-6)
    np.testing.assert_allclose(result.episode.states[1:, 100], arrays["base_action"][:-1, 0], atol=1e-6)
    for role, name in (("external", "cam_high"), ("right_wrist", "cam_right_wrist"), ("left_wrist", "cam_left_wrist")):
        difference = result.episode.images[role][4].astype(int) - frames[name][4]
        assert np.abs(difference).max() <= 3
    assert result.episode.instructions == ("Go.",)


def test_fields_are_those_of_the_first_file(tmp_path):
    write(tmp_path / "a.hdf5")
    fields = Hdf5Source(tmp_path).fields()
    assert fields["observations/qpos"].shape == (14,) and fields["observations/qpos"].kind == "array"
    assert fields["observations/images/cam_high"].kind == "image"
    assert fields["instruction"].kind == "text" and "compress_len" not in fields
    lacking = {path: spec for path, spec in fields.items() if path != "observations/qpos"}
    with pytest.raises(ValueError, match=r"agilex.yaml: state\[0\].*unknown field 'observations/qpos'"):
        Mapping.from_yaml(find_config("datasets", "agilex"), lacking)


def test_shards_come_in_name_order_and_the_glob_chooses(tmp_path):
    for name in ("b/1.hdf5", "a/2.hdf5", "a/10.hdf5"):
        write(tmp_path / name)
    assert [shard.name for shard in Hdf5Source(tmp_path).shards()] == ["a/10.hdf5", "a/2.hdf5", "b/1.hdf5"]
    assert [record.name for record in records(tmp_path, "b/*.hdf5")] == ["b/1.hdf5"]
    with pytest.raises(FileNotFoundError, match="no file"):
        Hdf5Source(tmp_path, "*.h5")
    with pytest.raises(FileNotFoundError, match="no folder"):
        Hdf5Source(tmp_path / "absent")


def test_phrasings_beside_the_episodes(tmp_path):
    write(tmp_path / "task" / "0.hdf5", instruction=None)
    phrasings = {"instruction": "Go.", "expanded_instruction": ["Walk.", "Run."]}
    (tmp_path / "task" / SIDECAR_NAME).write_text(json.dumps(phrasings))
    (record,) = records(tmp_path)
    assert record.sidecar == phrasings and "instruction" not in record.metadata
    (tmp_path / "task" / SIDECAR_NAME).write_text("{")
    (fault,) = records(tmp_path)
    assert fault.kind == "sidecar" and "not valid JSON" in fault.message


def test_an_embedding_is_no_text(tmp_path):
    write(tmp_path / "a.hdf5", instruction=np.zeros((3, 8)))
    (record,) = records(tmp_path)
    assert "instruction" not in record.metadata and "instruction" not in record.fields


def test_our_own_files_say_what_they_are(tmp_path, robot, native, pictures):
    qpos, action = native(STEPS)
    images = {"external": pictures(STEPS, 0)}
    texts = ["pick up", "lift"]
    path = tmp_path / "a.hdf5"
    write_episode(path, qpos=qpos, action=action, images=images, instructions=texts, embodiment=robot)
    (record,) = records(tmp_path)
    assert record.metadata["instruction"] == texts and record.metadata["colour"] == "rgb"
    assert (record.metadata["rate_hz"], record.metadata["action_offset_steps"]) == (12.5, 1)


def test_a_damaged_file_is_a_fault_and_its_neighbours_are_read(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.hdf5")
    content = (tmp_path / "b.hdf5").read_bytes()
    (tmp_path / "b.hdf5").write_bytes(content[: len(content) // 3])
    a, b, c = records(tmp_path)
    assert isinstance(a, RawEpisode) and isinstance(c, RawEpisode)
    assert isinstance(b, Fault) and b.kind == "truncated" and b.where == "b.hdf5"
    assert Hdf5Source(tmp_path, "b.hdf5").fields() is None


def test_a_link_to_content_that_was_never_fetched_is_told(tmp_path):
    write(tmp_path / "b.hdf5")
    (tmp_path / "a.hdf5").symlink_to(tmp_path / "annex/a.hdf5")
    assert Hdf5Source(tmp_path).fields() is None
    fault, episode = records(tmp_path)
    assert (fault.kind, fault.where, fault.left_out) == ("missing_file", "a.hdf5", True)
    assert isinstance(episode, RawEpisode)


def test_a_file_without_numbers_is_a_fault(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["instruction"] = "go"
    (fault,) = records(tmp_path)
    assert "no numbers" in fault.message
