"""pytest tests/data_pipeline/sources/test_hdf5.py"""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_pipeline.atomic import WriteError
from data_pipeline.frames import JpegFrames, encode_frames, encode_jpeg
from data_pipeline.schema.types import CAMERA_KEYS, CAMERA_ROLES
from data_pipeline.sources.hdf5 import read_episode, read_recording, write_episode

STEPS = 6


@pytest.fixture
def fields(robot, native, pictures):
    qpos, action = native(STEPS)
    return {
        "qpos": qpos,
        "action": action,
        "images": {role: pictures(STEPS, seed) for seed, role in enumerate(CAMERA_ROLES)},
        "instructions": ["pick up the cup", "lift the cup"],
        "embodiment": robot,
    }


@pytest.fixture
def path(tmp_path, fields):
    write_episode(tmp_path / "episode_0.hdf5", **fields)
    return tmp_path / "episode_0.hdf5"


@pytest.mark.parametrize("compress", [True, False])
def test_write_and_read_keep_everything(tmp_path, fields, robot, compress):
    write_episode(tmp_path / "a.hdf5", **fields, compress=compress, sim=True)
    recording = read_recording(tmp_path / "a.hdf5", robot)
    np.testing.assert_array_equal(recording.qpos, fields["qpos"])
    np.testing.assert_array_equal(recording.action, fields["action"])
    assert recording.instructions == ("pick up the cup", "lift the cup")
    assert (recording.rate_hz, recording.action_offset_steps) == (12.5, 1)
    assert list(recording.images) == list(CAMERA_ROLES)
    for role, frames in recording.images.items():
        difference = np.abs(np.stack(list(frames)).astype(int) - fields["images"][role])
        assert difference.max() <= (4 if compress else 0)


def test_an_episode_is_in_unified_units(path, fields, robot):
    episode = read_episode(path, robot)
    for vectors, mask, kind, native in (
        (episode.states, episode.state_mask, "state", fields["qpos"]),
        (episode.actions, episode.action_mask, "action", fields["action"]),
    ):
        expected, expected_mask = robot.to_unified(native, kind=kind)
        np.testing.assert_array_equal(vectors, expected)
        np.testing.assert_array_equal(mask, expected_mask)
    assert episode.name == "episode_0" and isinstance(episode.images["external"], JpegFrames)


def test_files_follow_the_published_form(path):
    with h5py.File(path) as file:
        assert file["action"].shape == file["observations/qpos"].shape == (STEPS, 3)
        assert list(file["observations/images"]) == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
        assert bool(file.attrs["compress"]) and not file.attrs["sim"] and file.attrs["colour"] == "rgb"
        for lengths, key in zip(file["compress_len"], file["observations/images"], strict=True):
            rows = file["observations/images"][key][()]
            assert [len(row.tobytes().rstrip(b"\0")) for row in rows] == lengths.tolist()


def _replace(file, key, value, **options):
    del file[key]
    file.create_dataset(key, data=value, **options)


@pytest.mark.parametrize("layout", ["fixed", "opaque", "variable"])
def test_other_layouts_of_the_pictures(path, fields, robot, layout):
    jpegs = [encode_jpeg(frame) for frame in fields["images"]["external"]]
    with h5py.File(path, "a") as file:
        if layout == "fixed":
            value, options = np.array(jpegs, dtype="S"), {}
        elif layout == "opaque":
            value, options = np.array(jpegs, dtype="S").view(f"V{max(map(len, jpegs))}"), {}
        else:
            value = np.empty(STEPS, dtype=object)
            value[:] = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
            options = {"dtype": h5py.vlen_dtype(np.uint8)}
        _replace(file, "observations/images/cam_high", value, **options)
        del file["compress_len"]
    assert read_episode(path, robot).images["external"].encoded == jpegs


def test_foreign_files_take_colour_instruction_and_rate_from_outside(path, fields, robot):
    with h5py.File(path, "a") as file:
        file.attrs.clear()
        del file["instruction"]
    with pytest.raises(ValueError, match=r"episode_0\.hdf5: holds no instruction"):
        read_episode(path, robot)
    episode = read_episode(path, robot, colour="bgr", instructions=["wave"])
    assert episode.instructions == ("wave",)
    assert (episode.rate_hz, episode.action_offset_steps) == (12.5, 1)
    difference = episode.images["external"][0][..., ::-1].astype(int) - fields["images"]["external"][0]
    assert np.abs(difference).max() <= 4


def test_a_file_that_states_its_colour_is_believed(path, fields, robot):
    episode = read_episode(path, robot, colour="bgr")
    assert np.abs(episode.images["external"][0].astype(int) - fields["images"]["external"][0]).max() <= 4


def test_one_instruction_as_dataset(path, robot):
    with h5py.File(path, "a") as file:
        del file.attrs["instructions"]
    assert read_recording(path, robot).instructions == ("pick up the cup",)
    with h5py.File(path, "a") as file:
        _replace(file, "instruction", np.zeros((4, 8)))
    with pytest.raises(ValueError, match="precomputed embedding"):
        read_recording(path, robot)


def test_simulated_recordings_call_the_external_camera_top(path, robot):
    with h5py.File(path, "a") as file:
        file.move("observations/images/cam_high", "observations/images/top")
    assert "external" in read_episode(path, robot).images


def test_frames_without_cameras(tmp_path, fields, robot):
    write_episode(tmp_path / "a.hdf5", **{**fields, "images": {}})
    assert read_episode(tmp_path / "a.hdf5", robot).images == {}


def test_coded_frames_keep_their_bytes(tmp_path, fields, robot):
    frames = encode_frames(fields["images"]["external"])
    write_episode(tmp_path / "a.hdf5", **{**fields, "images": {"external": frames}})
    assert read_episode(tmp_path / "a.hdf5", robot).images["external"].encoded == list(frames.encoded)


def test_reversed_frames_are_written_true(tmp_path, fields, robot):
    frames = JpegFrames(encode_frames(fields["images"]["external"]).encoded, colour="bgr")
    write_episode(tmp_path / "a.hdf5", **{**fields, "images": {"external": frames}})
    again = read_episode(tmp_path / "a.hdf5", robot).images["external"][0]
    assert np.abs(again.astype(int) - frames[0]).max() <= 4


DAMAGE = {
    "missing key": (
        lambda f: f.__delitem__("observations/qpos"),
        r"'observations/qpos' is missing.*\['images'\]",
    ),
    "missing action": (lambda f: f.__delitem__("action"), "'action' is missing: the file has"),
    "width": (
        lambda f: _replace(f, "action", np.zeros((STEPS, 4))),
        r"'action' has shape \(6, 4\).*right_gripper",
    ),
    "length": (lambda f: _replace(f, "action", np.zeros((STEPS - 1, 3))), "'action' has 5 steps.*has 6"),
    "frames": (
        lambda f: _replace(f, "observations/images/cam_high", np.zeros((STEPS - 1, 9), np.uint8)),
        "cam_high' has 5 frames.*6 steps",
    ),
    "not a number": (
        lambda f: f["observations/qpos"].__setitem__((2, 1), np.nan),
        "'observations/qpos' is not finite at 1 steps, first at step 2",
    ),
    "integers": (lambda f: _replace(f, "action", np.zeros((STEPS, 3), int)), "must hold floating-point"),
    "empty": (lambda f: _replace(f, "observations/qpos", np.zeros((0, 3))), "has no steps"),
    "grey": (
        lambda f: _replace(f, "observations/images/cam_high", np.zeros((STEPS, 4, 4, 1), np.uint8)),
        "must be uint8",
    ),
    "pictures of text": (
        lambda f: _replace(f, "observations/images/cam_high", np.zeros(STEPS)),
        "must hold JPEG byte strings",
    ),
    "robot": (lambda f: f.attrs.__setitem__("robot", "other"), "recorded by robot 'other', not 'tiny'"),
    "colour": (lambda f: f.attrs.__setitem__("colour", "grb"), "colour must be rgb or bgr"),
    "offset": (lambda f: f.attrs.__setitem__("action_offset_steps", -1), "whole number of steps"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_reported_with_file_and_key(path, robot, damage, message):
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(ValueError, match=rf"episode_0\.hdf5: .*{message}"):
        read_episode(path, robot)


@pytest.mark.parametrize("keep", [0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_one_message(path, robot, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"episode_0\.hdf5: cannot be read"):
        read_episode(path, robot)


def test_a_missing_file_is_not_called_damaged(tmp_path, robot):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_episode(tmp_path / "nowhere.hdf5", robot)


WRONG = {
    "width": ({"action": np.zeros((STEPS, 2))}, r"action must be \(6, 3\)"),
    "length": ({"qvel": np.zeros((STEPS + 1, 3))}, "observations/qvel must be"),
    "finite": ({"qpos": np.full((STEPS, 3), np.nan)}, "observations/qpos is not finite"),
    "text": ({"instructions": "wave"}, "list of at least one"),
    "role": ({"images": {"cam_high": []}}, "unknown camera roles"),
    "frames": ({"images": {"external": np.zeros((2, 4, 4, 3), np.uint8)}}, "2 frames for 6 steps"),
    "dtype": ({"images": {"external": np.zeros((STEPS, 4, 4, 3))}}, "a frame must be uint8"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_episode_is_not_written(tmp_path, fields, change, message):
    with pytest.raises(ValueError, match=message):
        write_episode(tmp_path / "a.hdf5", **{**fields, **change})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_message_and_no_file(tmp_path, fields, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="the disk is full"):
        write_episode(tmp_path / "a.hdf5", **fields)
    assert not list(tmp_path.iterdir())


def test_velocities_rate_and_offset_can_be_given(tmp_path, fields, robot):
    write_episode(tmp_path / "a.hdf5", **fields, qvel=fields["qpos"], rate_hz=50, action_offset_steps=0)
    recording = read_recording(tmp_path / "a.hdf5", dataclasses.replace(robot, rate_hz=1))
    assert (recording.rate_hz, recording.action_offset_steps) == (50, 0)
    with h5py.File(tmp_path / "a.hdf5") as file:
        np.testing.assert_array_equal(file["observations/qvel"], fields["qpos"])


def test_every_role_has_a_key():
    assert tuple(CAMERA_KEYS) == CAMERA_ROLES
