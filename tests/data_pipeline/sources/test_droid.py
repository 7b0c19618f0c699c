"""pytest tests/data_pipeline/sources/test_droid.py: episode folders of DROID as records for a mapping."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from data_pipeline.mapping.mapping import MappedEpisode, Mapping
from data_pipeline.schema import rotation
from data_pipeline.schema.registry import find_config
from data_pipeline.sources.droid import DroidRawSource
from data_pipeline.sources.raw import Fault, RawEpisode
from data_pipeline.sources.video import write_video

STEPS = 34
SERIALS = {"wrist": "11", "ext1": "22", "ext2": "33"}
UUID = "LAB+abc+2023-07-07-09h-42m-23s"
ROBOT = "observation/robot_state"
OFFSETS = {"wrist": 0, "ext1": 15, "ext2": 30}


def levels(name: str) -> np.ndarray:
    """Grey level of each frame of a camera: which frame of which camera it is can be seen."""
    return np.linspace(20, 200, STEPS + 5).astype(int) + OFFSETS[name]


def write_camera(folder, name, *, frames=STEPS + 1, stereo=False, suffix=""):
    pictures = np.zeros((frames, 36, 128 if stereo else 64, 3), np.uint8)
    pictures[:, :, :64] = levels(name)[:frames, None, None, None]  # the right view is black
    path = folder / "recordings" / "MP4" / f"{SERIALS[name]}{suffix}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, pictures, 15, "libx264", gop=12)


def write_episode(root, name="LAB/success/2023-07-07/Fri_Jul_7_09_42_23_2023", *, cameras=True, seed=0, **metadata):
    """One episode folder; returns it and what the robot did."""
    rng = np.random.default_rng(seed)
    euler = rng.uniform(-1, 1, (STEPS, 3))
    known = {
        "joints": rng.uniform(-2, 2, (STEPS, 7)),
        "position": rng.uniform(-1, 1, (STEPS, 3)),
        "euler": euler,
        "opening": rng.uniform(0, 1, STEPS),
    }
    folder = root / name
    folder.mkdir(parents=True)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file[f"{ROBOT}/joint_positions"] = known["joints"]
        file[f"{ROBOT}/cartesian_position"] = np.concatenate([known["position"], euler], axis=1)
        file[f"{ROBOT}/gripper_position"] = 1 - known["opening"]
        file["action/joint_position"] = known["joints"] + 1
        file["action/target_cartesian_position"] = np.zeros((STEPS, 6))
        file["observation/timestamp/skip_action"] = np.arange(STEPS) < 2
        file["observation/controller_info/movement_enabled"] = np.arange(STEPS) >= 2
        file["observation/timestamp/control/step_start"] = 1_688_000_000_000 + np.rint(np.arange(STEPS) * 1e3 / 15)
        file["observation/camera_type/11"] = np.zeros(STEPS, int)
        file.attrs.update(current_task="unused", success=True)
    stated = {
        "uuid": UUID,
        "lab": "LAB",
        "user": "A Person",
        "user_id": "abc",
        "success": True,
        "current_task": "Tidy up",
    }
    stated |= {f"{name}_cam_serial": serial for name, serial in SERIALS.items()} | metadata
    (folder / f"metadata_{UUID}.json").write_text(json.dumps(stated))
    if cameras:
        for camera in SERIALS:
            write_camera(folder, camera)
    return folder, known


def read(root):
    source = DroidRawSource(root)
    return [result for shard in source.shards() for result in source.read(shard)]


def test_an_episode_becomes_the_robots_states(tmp_path):
    """The journey through the shipped mapping."""
    _, known = write_episode(tmp_path)
    source = DroidRawSource(tmp_path)
    mapping = Mapping.from_yaml(find_config("datasets", "droid_raw"), source.fields())
    (raw,) = source.read(source.shards()[0])
    (result,) = mapping.apply(raw)
    assert isinstance(result, MappedEpisode)
    episode = result.episode
    assert np.flatnonzero(episode.state_mask).tolist() == [*range(7), 10, *range(30, 39)]
    np.testing.assert_allclose(episode.states[:, :7], known["joints"], atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 10], known["opening"], atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 30:33], known["position"], atol=1e-6)
    turned = rotation.rot6d_from_matrix(rotation.matrix_from_euler(known["euler"]))
    np.testing.assert_allclose(episode.states[:, 33:39], turned, atol=1e-6)
    assert episode.instructions == ("Tidy up.",) and episode.rate_hz == 15
    for role, name in (("external", "ext1"), ("right_wrist", "wrist")):
        for step in (0, 20, STEPS - 1):
            assert abs(int(episode.images[role][step].mean()) - levels(name)[step]) <= 3
    assert list(result.extra_images) == ["ext2"]


def test_the_same_slots_as_the_rlds_release():
    raw, rlds = (Mapping.from_yaml(find_config("datasets", name)) for name in ("droid_raw", "droid"))
    assert raw.state.slots() == rlds.state.slots() and raw.rate == rlds.rate and raw.robot == rlds.robot
    for one, other in zip(raw.state, rlds.state, strict=True):
        assert (one.slots, one.ops) == (other.slots, other.ops)


def test_fields_stamps_and_metadata(tmp_path):
    write_episode(tmp_path)
    (raw,) = read(tmp_path)
    assert raw.num_steps == STEPS and raw.stamps_ns.dtype == np.int64
    np.testing.assert_array_equal(np.diff(raw.stamps_ns)[:2], [67_000_000, 66_000_000])
    np.testing.assert_array_equal(raw.fields["action/joint_position"], raw.fields[f"{ROBOT}/joint_positions"] + 1)
    assert raw.fields["observation/timestamp/skip_action"].sum() == 2
    assert not raw.fields["observation/controller_info/movement_enabled"][1]
    assert raw.metadata["episode_metadata/success"] is True and raw.metadata["episode_metadata/lab"] == "LAB"
    assert raw.metadata["episode_metadata/file_path"].endswith("2023/trajectory.h5")
    assert not any("user" in key for key in raw.metadata)


def test_annotations_stand_in_for_the_task_that_was_set(tmp_path):
    write_episode(tmp_path)
    written = {
        UUID: {"language_instruction1": "Put it away", "language_instruction2": "", "language_instruction3": "Tidy"}
    }
    (tmp_path / "aggregated-annotations-030724.json").write_text(json.dumps(written))
    (raw,) = read(tmp_path)
    texts = {key: value for key, value in raw.metadata.items() if key.startswith("language")}
    assert texts == {"language_instruction": "Put it away", "language_instruction_3": "Tidy"}
    (tmp_path / "aggregated-annotations-030724.json").write_text("{")
    with pytest.raises(ValueError, match="aggregated-annotations"):
        DroidRawSource(tmp_path)


def test_a_failure_is_filtered_and_no_text_is_none(tmp_path):
    write_episode(tmp_path, success=False, current_task="")
    (raw,) = read(tmp_path)
    mapping = Mapping.from_yaml(find_config("datasets", "droid_raw"))
    (fault,) = mapping.apply(raw)
    assert fault.kind == "no_language"
    write_episode(tmp_path / "other", success=False)
    (raw,) = read(tmp_path / "other")
    (fault,) = mapping.apply(raw)
    assert fault.kind == "filtered"


@pytest.mark.parametrize("suffix", ["", "-stereo"])
def test_of_two_views_the_left_one(tmp_path, suffix):
    folder, _ = write_episode(tmp_path, cameras=False)
    for name in SERIALS:
        write_camera(folder, name, stereo=True, suffix=suffix)
    (raw,) = read(tmp_path)
    frame = raw.images["ext2"][7]
    assert frame.shape == (36, 64, 3)
    assert abs(int(frame.mean()) - levels("ext2")[7]) <= 3


def test_more_frames_than_steps_are_told_and_fewer_are_left_to_the_mapping(tmp_path):
    folder, _ = write_episode(tmp_path)
    write_camera(folder, "wrist", frames=STEPS + 3)
    write_camera(folder, "ext1", frames=STEPS - 1)
    fault, raw = read(tmp_path)
    assert fault.kind == "lengths" and fault.where.endswith("wrist") and "37 frames for 34 steps" in fault.message
    assert [len(raw.images[name]) for name in SERIALS] == [STEPS, STEPS - 1, STEPS]
    (fault,) = Mapping.from_yaml(find_config("datasets", "droid_raw")).apply(raw)
    assert fault.kind == "lengths"


def test_a_camera_that_cannot_be_read_is_missing(tmp_path):
    folder, _ = write_episode(tmp_path)
    (folder / "recordings" / "MP4" / "11.mp4").unlink()
    cut = folder / "recordings" / "MP4" / "33.mp4"
    cut.write_bytes(cut.read_bytes()[:200])
    wrist, ext2, raw = read(tmp_path)
    assert (wrist.kind, ext2.kind) == ("missing_camera", "missing_camera")
    assert wrist.where.endswith("wrist") and "cut short" in ext2.message
    assert list(raw.images) == ["ext1"]


@pytest.mark.parametrize(("svo", "words"), [(True, "need the ZED SDK"), (False, "none of its cameras")])
def test_without_any_video_the_rlds_release_is_named(tmp_path, svo, words):
    folder, _ = write_episode(tmp_path, cameras=False)
    if svo:
        (folder / "recordings" / "SVO").mkdir(parents=True)
        (folder / "recordings" / "SVO" / "11.svo").write_bytes(b"svo")
    *_, fault = read(tmp_path)
    assert fault.kind == "missing_camera" and words in fault.message and "RLDS release" in fault.message


def cut_trajectory(folder):
    content = (folder / "trajectory.h5").read_bytes()
    (folder / "trajectory.h5").write_bytes(content[: len(content) // 3])


def without_steps(folder):
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file["observation/other"] = np.zeros(3)


def of_no_length(folder):
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file["action/joint_position"] = np.zeros((0, 7))


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (cut_trajectory, "truncated", "cut short"),
        (without_steps, "missing_field", "observation/other"),
        (of_no_length, "zero_length", "no steps"),
        (lambda folder: (folder / "trajectory.h5").unlink(), "missing_file", "trajectory.h5"),
        (lambda folder: (folder / f"metadata_{UUID}.json").unlink(), "missing_file", "names its cameras"),
        (lambda folder: (folder / f"metadata_{UUID}.json").write_text("[1]"), "sidecar", "an object, got list"),
        (lambda folder: (folder / f"metadata_{UUID}.json").write_text("{"), "sidecar", "damaged"),
    ],
)
def test_a_damaged_episode_is_a_fault_and_its_neighbours_are_read(tmp_path, damage, kind, words):
    folders = [write_episode(tmp_path, f"LAB/success/2023-07-07/{name}", cameras=False)[0] for name in "abc"]
    for folder in folders:
        write_camera(folder, "ext1")
    damage(folders[1])
    results = [result for result in read(tmp_path) if getattr(result, "kind", "") != "missing_camera"]
    before, fault, after = results
    assert isinstance(before, RawEpisode) and isinstance(after, RawEpisode)
    assert isinstance(fault, Fault) and fault.kind == kind and words in fault.message
    assert fault.where == "LAB/success/2023-07-07/b"


def test_folders_are_shards_in_name_order(tmp_path):
    for name in ("b", "a"):
        write_episode(tmp_path, f"LAB/success/2023-07-07/{name}", cameras=False)
    (tmp_path / "LAB" / "success" / "2023-07-07" / "empty").mkdir()
    assert [shard.path.name for shard in DroidRawSource(tmp_path).shards()] == ["a", "b"]
    with pytest.raises(FileNotFoundError, match="no episode folder"):
        DroidRawSource(tmp_path, "*/failure/*/*")
    with pytest.raises(FileNotFoundError, match="no folder"):
        DroidRawSource(tmp_path / "absent")
    cut_trajectory(tmp_path / "LAB" / "success" / "2023-07-07" / "a")
    assert DroidRawSource(tmp_path).fields() is None
