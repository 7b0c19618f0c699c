"""pytest tests/data_pipeline/mapping/test_starter.py"""

from __future__ import annotations

import pytest

from data_pipeline.mapping.mapping import Mapping
from data_pipeline.mapping.starter import starter_yaml
from data_pipeline.recordings import MappedRecordings, ReadEpisode
from data_pipeline.schema.layout import slot_range
from data_pipeline.sources.opening import open_recordings
from data_pipeline.sources.raw import FieldSpec
from tests import sample_data

PICTURE, TEXT = FieldSpec("image", (None, None, 3), "uint8"), FieldSpec("text")


def vector(width: int) -> FieldSpec:
    return FieldSpec("array", (width,))


def read(tmp_path, fields, **options) -> Mapping:
    path = tmp_path / "mine.yaml"
    path.write_text(starter_yaml("mine", "hdf5", "**/*.hdf5", fields, **options))
    return Mapping.from_yaml(path, fields)


def test_two_arms_in_alohas_order(tmp_path):
    fields = {"observations/qpos": vector(14), "observations/qvel": vector(14), "action": vector(14), "text": TEXT}
    cameras = ("cam_high", "cam_left_wrist", "cam_right_wrist", "cam_low")
    fields |= {f"observations/images/{key}": PICTURE for key in cameras}
    mapping = read(tmp_path, fields, fps=50)
    assert mapping.state.slots() == {*range(6), 10, *range(50, 56), 60}
    assert mapping.action.mode == "recorded" and mapping.rate.hz == 50
    assert {role: path.split("/")[-1] for role, path in mapping.cameras.roles.items()} == {
        "external": "cam_high",
        "right_wrist": "cam_right_wrist",
        "left_wrist": "cam_left_wrist",
    }
    assert mapping.cameras.extra == ("observations/images/cam_low",)
    assert "not used: observations/qvel (14)" in (tmp_path / "mine.yaml").read_text()


@pytest.mark.parametrize(("width", "gripper"), [(6, False), (7, True), (8, True), (3, False), (30, False)])
def test_one_arm_is_the_right_one(tmp_path, width, gripper):
    mapping = read(tmp_path, {"observation/state": vector(width), "observation/image": PICTURE})
    joints = width - 1 if gripper else min(width, 10)
    expected = set(slot_range(f"right_arm_joint_pos[0:{joints}]")) | ({10} if gripper else set())
    assert mapping.state.slots() == expected and mapping.action.mode == "next_state"
    assert mapping.language.constant


@pytest.mark.parametrize("make", [sample_data.make_rlds, sample_data.make_aloha, sample_data.make_lerobot])
def test_recordings_are_read_by_what_was_guessed(tmp_path, make):
    dataset = make(tmp_path)
    folder = tmp_path / dataset.name
    source_format = {"tiny_rlds": "rlds", "tiny_aloha": "hdf5", "tiny_lerobot": "lerobot"}[dataset.name]
    source = open_recordings(folder)
    glob = f"{dataset.name}/**/*.hdf5" if source_format == "hdf5" else dataset.name
    path = tmp_path / "guess.yaml"
    path.write_text(starter_yaml("guess", source_format, glob, source.fields(), getattr(source, "fps", None)))
    recordings = MappedRecordings(path, tmp_path)
    found = [one for shard in recordings.shards() for one in recordings.read(shard)]
    assert sum(isinstance(one, ReadEpisode) for one in found) == len(dataset.states)
