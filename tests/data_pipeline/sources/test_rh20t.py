"""pytest tests/data_pipeline/sources/test_rh20t.py: scene folders of RH20T as records for a mapping."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from data_pipeline.frames import encode_jpeg
from data_pipeline.mapping.mapping import MappedEpisode, Mapping
from data_pipeline.schema import rotation
from data_pipeline.schema.registry import find_config
from data_pipeline.sources.raw import Fault, RawEpisode
from data_pipeline.sources.rh20t import Rh20tSource
from data_pipeline.sources.video import write_video

STEPS, START_MS, PERIOD_MS = 36, 1_650_000_000_000, 100
HAND, FRONT, SIDE = "043322070878", "104122062295", "104122062823"  # in name order
STAMPS_MS = START_MS + PERIOD_MS * np.arange(STEPS)
TEXT = "pick up the block"


def levels(offset: int = 0) -> np.ndarray:
    """Grey level of each frame: which one it is can be seen."""
    return np.linspace(20, 200, STEPS).astype(np.uint8) + np.uint8(offset)


def write_camera(scene, serial, stamps_ms, *, video=False, offset=0):
    folder = scene / f"cam_{serial}"
    frames = np.broadcast_to(levels(offset)[: len(stamps_ms), None, None, None], (len(stamps_ms), 16, 24, 3))
    if video:
        folder.mkdir(parents=True)
        write_video(folder / "color.mp4", frames, 10, "libx264", gop=12)
        np.save(folder / "timestamps.npy", {"color": list(map(int, stamps_ms)), "depth": []}, allow_pickle=True)
        return
    (folder / "color").mkdir(parents=True)
    for stamp, frame in zip(stamps_ms, frames, strict=True):
        (folder / "color" / f"{stamp}.jpg").write_bytes(encode_jpeg(frame))


def write_scene(root, configuration=5, number=1, *, video=False, width=None, seed=0, describe=True):
    """One scene with two outer cameras and one in the hand; returns its folder and what the robot did."""
    rng = np.random.default_rng(seed)
    joints = {3: 6, 4: 6}.get(configuration, 7)
    turn = rng.normal(size=(STEPS, 3))
    known = {
        "joint": rng.uniform(-2, 2, (STEPS, width or joints)),
        "position": rng.uniform(-1, 1, (STEPS, 3)),
        "rotation": rotation.matrix_from_axis_angle(turn / np.linalg.norm(turn, axis=1, keepdims=True)),
        "opening": rng.uniform(0, 1, STEPS),
    }
    tcp = np.concatenate([known["position"], rotation.quaternion_from_matrix(known["rotation"])], axis=1)
    name = f"task_0001_user_0010_scene_{number:04d}_cfg_{configuration:04d}"
    scene = root / f"RH20T_cfg{configuration}" / name
    folder = scene / "transformed"
    folder.mkdir(parents=True)
    steps = list(enumerate(map(int, STAMPS_MS)))
    joint = {FRONT: {stamp: known["joint"][i] for i, stamp in steps}}
    gripper = {
        FRONT: {s: {"gripper_info": [110 * known["opening"][i], 0, 0], "gripper_command": [1]} for i, s in steps}
    }
    tcp_base = {FRONT: [{"timestamp": s, "tcp": tcp[i], "robot_ft": np.full(6, float(i))} for i, s in reversed(steps)]}
    for file, content in (("joint", joint), ("gripper", gripper), ("tcp_base", tcp_base)):
        np.save(folder / f"{file}.npy", content, allow_pickle=True)
    write_camera(scene, SIDE, STAMPS_MS + 30, video=video, offset=40)
    write_camera(scene, FRONT, STAMPS_MS, video=video)
    write_camera(scene, HAND, STAMPS_MS)
    (scene / "metadata.json").write_text(json.dumps({"rating": 7, "finish_time": int(STAMPS_MS[-1])}))
    if describe:
        tasks = {"task_0001": {"task_description_english": TEXT, "task_description_chinese": ""}}
        (root / "task_description.json").write_text(json.dumps(tasks))
    return scene, known


def read(root):
    source = Rh20tSource(root)
    return [result for shard in source.shards() for result in source.read(shard)]


def kinds(results):
    return [result.kind for result in results if isinstance(result, Fault)]


@pytest.mark.parametrize("configuration", [3, 5])
@pytest.mark.parametrize("video", [False, True])
def test_a_scene_becomes_the_robots_states(tmp_path, configuration, video):
    """The journey of arms of six and of seven joints through the shipped mapping."""
    _, known = write_scene(tmp_path, configuration, video=video)
    source = Rh20tSource(tmp_path)
    mapping = Mapping.from_yaml(find_config("datasets", "rh20t"), source.fields())
    (raw,) = source.read(source.shards()[0])
    (result,) = mapping.apply(raw)
    assert isinstance(result, MappedEpisode)
    episode, joints = result.episode, known["joint"].shape[1]
    mask = [*range(joints), 10, *range(30, 39)]
    assert np.flatnonzero(episode.state_mask).tolist() == mask
    np.testing.assert_allclose(episode.states[:, :joints], known["joint"], atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 10], known["opening"], atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 30:33], known["position"], atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 33:39], rotation.rot6d_from_matrix(known["rotation"]), atol=1e-6)
    assert episode.instructions == ("Pick up the block.",) and episode.rate_hz == 10
    for step in (0, 17, STEPS - 1):
        assert abs(int(episode.images["external"][step].mean()) - int(levels()[step])) <= 3


def test_fields_stamps_and_metadata(tmp_path):
    write_scene(tmp_path)
    (raw,) = read(tmp_path)
    np.testing.assert_array_equal(raw.stamps_ns, STAMPS_MS * 10**6)
    assert set(raw.fields) == {"joint", "tcp_base", "tcp_base/robot_ft", "gripper", "gripper/gripper_command"}
    np.testing.assert_array_equal(raw.fields["tcp_base/robot_ft"][:, 0], np.arange(STEPS))  # sorted by stamp
    assert raw.metadata["episode_metadata/rating"] == 7 and raw.metadata["instruction"] == TEXT


def test_velocities_behind_the_positions(tmp_path):
    _, known = write_scene(tmp_path, configuration=1, width=14)
    (raw,) = read(tmp_path)
    np.testing.assert_allclose(raw.fields["joint"], known["joint"][:, :7])
    np.testing.assert_allclose(raw.fields["joint_velocity"], known["joint"][:, 7:])


def test_another_width_is_left_to_the_mapping(tmp_path):
    write_scene(tmp_path, configuration=5, width=5)
    (raw,) = read(tmp_path)
    (fault,) = Mapping.from_yaml(find_config("datasets", "rh20t")).apply(raw)
    assert fault.kind == "wrong_width"


def test_cameras_keep_their_own_frames(tmp_path):
    write_scene(tmp_path)
    (raw,) = read(tmp_path)
    assert set(raw.images) == {"image", f"image_{SIDE}", f"image_{HAND}"}
    assert abs(int(raw.images["image"][9].mean()) - int(levels()[9])) <= 1
    assert abs(int(raw.images[f"image_{SIDE}"][9].mean()) - int(levels(40)[9])) <= 1  # 30 ms later: the nearest
    assert set(raw.images) <= set(Rh20tSource(tmp_path).fields())


def test_the_hands_camera_is_never_the_image(tmp_path):
    scene, _ = write_scene(tmp_path)
    for serial in (FRONT, SIDE):
        for picture in (scene / f"cam_{serial}" / "color").iterdir():
            picture.unlink()
    results = read(tmp_path)
    assert kinds(results) == ["missing_camera"] * 3
    assert "no camera outside the hand" in results[-1].message


def test_readings_of_any_camera_count_and_ones_own_come_first(tmp_path):
    scene, known = write_scene(tmp_path)
    path = scene / "transformed" / "joint.npy"
    own = {int(s): known["joint"][i] for i, s in enumerate(STAMPS_MS) if i % 2 == 0}
    other = {int(s): known["joint"][i] + (i % 2 == 0) for i, s in enumerate(STAMPS_MS)}
    for content in ({FRONT: own, SIDE: other}, {SIDE: other, FRONT: own}):
        np.save(path, content, allow_pickle=True)
        (raw,) = read(tmp_path)
        np.testing.assert_allclose(raw.fields["joint"], known["joint"])


def test_a_step_without_a_reading_is_no_number_and_told(tmp_path):
    scene, known = write_scene(tmp_path)
    content = {FRONT: {int(s): known["joint"][i] for i, s in enumerate(STAMPS_MS) if not 10 <= i < 15}}
    np.save(scene / "transformed" / "joint.npy", content, allow_pickle=True)
    fault, raw = read(tmp_path)
    missing = np.flatnonzero(np.isnan(raw.fields["joint"]).all(axis=1))
    assert missing.tolist() == [11, 12, 13]  # 10 and 14 have a neighbour 100 ms away
    assert fault.kind == "stale" and fault.where.endswith("joint") and fault.message.startswith("3 of 36 steps")


def test_frames_that_are_too_far_are_not_another_frame(tmp_path):
    scene, _ = write_scene(tmp_path)
    for path in sorted((scene / f"cam_{SIDE}" / "color").iterdir())[5:]:
        path.unlink()
    fault, raw = read(tmp_path)
    frames = raw.images[f"image_{SIDE}"]
    assert fault.kind == "stale" and len(frames) == STEPS
    with pytest.raises(ValueError, match="no frame was young enough"):
        frames[20]


def scrap(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def run_code(path):
    class Program:
        def __reduce__(self):
            return os.system, (f"touch {path.parent / 'ran'}",)

    np.save(path, {FRONT: Program()}, allow_pickle=True)


def two_widths(path):
    np.save(path, {FRONT: {int(s): np.zeros(6 + i % 2) for i, s in enumerate(STAMPS_MS)}}, allow_pickle=True)


def not_by_stamp(path):
    np.save(path, {FRONT: [np.zeros(7)] * STEPS}, allow_pickle=True)


@pytest.mark.parametrize(
    ("file", "damage", "kind", "words"),
    [
        ("transformed/joint.npy", scrap, "truncated", "cut short"),
        ("transformed/tcp_base.npy", run_code, "unsafe_file", "system"),
        ("transformed/joint.npy", two_widths, "wrong_width", r"[6, 7]"),
        ("transformed/gripper.npy", not_by_stamp, "truncated", "by their stamps"),
        ("metadata.json", scrap, "sidecar", "metadata.json"),
        (f"cam_{FRONT}/timestamps.npy", run_code, "unsafe_file", "system"),
    ],
)
def test_a_damaged_scene_is_a_fault_and_its_neighbours_are_read(tmp_path, file, damage, kind, words):
    scenes = [write_scene(tmp_path, number=n, video="timestamps" in file)[0] for n in (1, 2, 3)]
    damage(scenes[1] / file)
    before, fault, after = read(tmp_path)
    assert isinstance(before, RawEpisode) and isinstance(after, RawEpisode)
    assert isinstance(fault, Fault) and fault.kind == kind and words in fault.message
    assert fault.where.startswith(f"RH20T_cfg5/{scenes[1].name}") and "left out" in fault.message
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("damage", ["video", "stamps"])
def test_a_damaged_camera_leaves_the_next_one_in_its_place(tmp_path, damage):
    scene, _ = write_scene(tmp_path, video=True)
    if damage == "video":
        scrap(scene / f"cam_{FRONT}" / "color.mp4")
    else:
        np.save(scene / f"cam_{FRONT}" / "timestamps.npy", {"color": [1, 2]}, allow_pickle=True)
    fault, raw = read(tmp_path)
    assert fault.kind == ("missing_camera" if damage == "video" else "lengths") and FRONT in fault.where
    assert abs(int(raw.images["image"][9].mean()) - int(levels(40)[9])) <= 3  # the side camera
    np.testing.assert_array_equal(raw.stamps_ns, (STAMPS_MS + 30) * 10**6)


def test_what_is_missing_is_told(tmp_path):
    scene, _ = write_scene(tmp_path, describe=False)
    (scene / "transformed" / "joint.npy").unlink()
    (scene / "metadata.json").unlink()
    results = read(tmp_path)
    assert kinds(results) == ["no_language", "missing_field"]
    assert "joint" not in results[-1].fields and "instruction" not in results[-1].metadata


def test_only_the_robots_scenes_are_shards(tmp_path):
    scene, _ = write_scene(tmp_path)
    (scene.parent / "calib").mkdir()
    (scene.parent / (scene.name + "_human")).mkdir()
    (shard,) = Rh20tSource(tmp_path).shards()
    assert shard.path == scene
    with pytest.raises(FileNotFoundError, match="no scene folder"):
        Rh20tSource(tmp_path, "RH20T_cfg1/*")
    with pytest.raises(FileNotFoundError, match="no folder"):
        Rh20tSource(tmp_path / "absent")
