"""pytest tests/data_pipeline/test_recordings.py"""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import yaml

from data_pipeline.conversion import convert
from data_pipeline.recordings import MappedRecordings, ReadEpisode, RobotRecordings, check_round_trip
from data_pipeline.schema.registry import find_config
from data_pipeline.sources.hdf5 import write_episode
from data_pipeline.sources.raw import Fault
from data_pipeline.storage import EpisodeStore
from tests import sample_data
from tests.data_pipeline.sources import test_mcap as bags
from tests.data_pipeline.sources import test_rh20t as scenes


def read(recordings) -> list[ReadEpisode | Fault]:
    return [found for shard in recordings.shards() for found in recordings.read(shard)]


def write_yaml(path, raw) -> str:
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def test_shards_are_read_in_any_order_and_process(tmp_path):
    dataset = sample_data.make_rlds(tmp_path)
    recordings = pickle.loads(pickle.dumps(MappedRecordings(dataset.yaml, tmp_path)))
    shards = recordings.shards()
    assert [shard.index for shard in shards] == [0, 1]
    last, first = (list(recordings.read(shard)) for shard in reversed(shards))
    for found, states in zip([*first, *last], dataset.states, strict=True):
        np.testing.assert_allclose(found.episode.states[:, dataset.slots], states, atol=2e-6)
        assert found.max_steps == 2048


def test_fields_of_the_source_are_kept_beside_it(tmp_path):
    dataset = sample_data.make_rlds(tmp_path)
    found, *_ = read(MappedRecordings(dataset.yaml, tmp_path))
    assert sorted(found.native) == ["action", "is_first", "language_instruction", "observation/state"]
    assert found.native["observation/state"].shape == (36, 15)
    assert found.note == {
        "dataset": "tiny_rlds",
        "shard": "tiny_rlds-train.tfrecord-00000-of-00002",
        "record": "tiny_rlds-train.tfrecord-00000-of-00002:0",
    }


def test_what_was_cut_is_cut_from_the_source_s_fields_too(tmp_path):
    dataset = sample_data.make_lerobot(tmp_path)
    raw = yaml.safe_load(dataset.yaml.read_text()) | {"limits": {"still_lead_eps": 0.3}}
    found, *_ = read(MappedRecordings(write_yaml(tmp_path / "cut.yaml", raw), tmp_path))
    start, stop = found.note["steps"]
    assert 0 < start < stop == 40
    np.testing.assert_array_equal(found.native["observation.state"], dataset.states[0][start:])


def test_side_fields_that_no_column_holds_cost_no_episode(tmp_path):
    dataset = sample_data.make_aloha(tmp_path)
    for path in dataset.files:
        with h5py.File(path, "a") as file:
            file["observations/depth"] = np.zeros((len(file["action"]), 0), np.float32)
            file["observations/notes"] = np.array([["left", "right"]] * len(file["action"]), dtype=object)
    recordings = MappedRecordings(dataset.yaml, tmp_path)
    found = read(recordings)
    assert len(found) == 3 and not {"observations/depth", "observations/notes"} & set(found[0].native)
    assert convert(recordings, tmp_path / "out", None).num_episodes == 3


def test_several_folders_are_one_dataset_whose_shards_have_names_of_their_own(tmp_path):
    for name in ("monday", "tuesday"):
        (tmp_path / name).mkdir()
        dataset = sample_data.make_lerobot(tmp_path / name)
        (tmp_path / name / "tiny_lerobot").rename(tmp_path / f"{name}_pens")
    raw = yaml.safe_load(dataset.yaml.read_text()) | {"source": {"format": "lerobot", "glob": "*_pens"}}
    recordings = MappedRecordings(write_yaml(tmp_path / "pens.yaml", raw), tmp_path)
    names = [shard.name for shard in recordings.shards()]
    assert len(set(names)) == 6 and names[0] == "monday_pens/data/chunk-000/episode_000000"
    found = read(recordings)
    assert len({one.episode.name for one in found}) == 6
    assert found[3].episode.name == "tuesday_pens/episode_000000"
    assert convert(recordings, tmp_path / "out", None).num_episodes == 6


def test_a_fault_names_the_folder_that_it_is_in(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        dataset = sample_data.make_lerobot(tmp_path / name)
    (tmp_path / "b/tiny_lerobot/data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1")
    raw = yaml.safe_load(dataset.yaml.read_text()) | {"source": {"format": "lerobot", "glob": "*/tiny_lerobot"}}
    recordings = MappedRecordings(write_yaml(tmp_path / "both.yaml", raw), tmp_path)
    (fault,) = [found for found in read(recordings) if isinstance(found, Fault)]
    assert fault.where.startswith("b/tiny_lerobot/data/chunk-000/episode_000001")


def test_a_width_that_changes_makes_columns_of_their_own(tmp_path):
    for number, configuration in enumerate((5, 3), start=1):
        scenes.write_scene(tmp_path, configuration, number)
    raw = yaml.safe_load(find_config("datasets", "rh20t").read_text()) | {"limits": {"min_length": 2}}
    recordings = MappedRecordings(write_yaml(tmp_path / "rh20t.yaml", raw), tmp_path)
    episodes = [found for found in read(recordings) if isinstance(found, ReadEpisode)]
    widths = [sorted(key for key in found.native if key.startswith("joint.")) for found in episodes]
    assert sorted(widths) == [["joint.6"], ["joint.7"]]
    report = convert(recordings, tmp_path / "out", None)
    assert report.num_episodes == 2 and "source_column" not in report.counts()["noted"]


LAB_ARM = """
schema: 1
name: lab_arm
fps: {from: timestamps, field: /cam_high/compressed, resample: 20}
defs: {js: /joint_states, tcp: /tool_pose, grip: /gripper/width}
state:
  - {to: "right_arm_joint_pos[0:3]", from: "js/position[0:3]", sync: {how: linear, max_age_s: 0.05}}
  - {to: right_eef_pos, from: tcp/pose/position, sync: {how: linear, max_age_s: 0.05}}
  - to: right_eef_rot6d
    from: tcp/pose/orientation
    ops: [{rot: {in: quat, order: xyzw}}]
    sync: {how: slerp, max_age_s: 0.05}
  - {to: "right_gripper_pos[0]", from: grip/data, ops: [{range: [0, 85]}], sync: {how: previous, max_age_s: 0.5}}
action: {mode: next_state}
cameras: {external: /cam_high/compressed, right_wrist: /cam_wrist/image_raw}
language: {fields: [/task/data]}
limits: {min_length: 4}
faults: {gap: split}
"""


@pytest.mark.parametrize("form", ["mcap", "rosbag"])
def test_topics_of_a_recording_become_an_episode(tmp_path, form):
    if form == "mcap":
        bags.write_mcap(tmp_path / "takes/one.mcap", bags.make_messages())
    else:
        bags.write_bag(tmp_path / "takes/one", bags.make_messages())
    raw = yaml.safe_load(LAB_ARM) | {"source": {"format": form, "glob": "takes/*"}}
    recordings = MappedRecordings(write_yaml(tmp_path / "lab.yaml", raw), tmp_path)
    (found,) = [found for found in read(recordings) if isinstance(found, ReadEpisode)]
    episode = found.episode
    seconds = np.arange(20) * 0.05
    assert (episode.num_steps, episode.rate_hz, episode.instructions) == (20, 20.0, ("Sort the parts.",))
    np.testing.assert_allclose(episode.states[:, :3], seconds[:, None] * [1, 2, 3], atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 33], np.cos(seconds * 0.5), atol=1e-6)
    np.testing.assert_allclose(episode.states[:, 10], 0.5, atol=1e-6)
    assert set(episode.images) == {"external", "right_wrist"}
    assert convert(recordings, tmp_path / "out", None).num_episodes == 1
    assert len(EpisodeStore.open(tmp_path / "out")) == 1


def test_another_yaml_is_another_signature(tmp_path):
    dataset = sample_data.make_rlds(tmp_path)
    same, again = (MappedRecordings(dataset.yaml, tmp_path) for _ in range(2))
    assert same.signature == again.signature
    assert same.signature != MappedRecordings(dataset.yaml, tmp_path, {"compat": "rdt"}).signature
    dataset.yaml.write_text(dataset.yaml.read_text().replace("fps: 10", "fps: 10.5"))
    assert same.signature != MappedRecordings(dataset.yaml, tmp_path).signature


@pytest.fixture
def files(tmp_path, robot, native, pictures):
    qpos, action = native(5)
    for i in range(2):
        path, images = tmp_path / "pick_cup" / f"episode_{i}.hdf5", {"external": pictures(5)}
        write_episode(path, qpos=qpos, action=action, images=images, instructions=["wave"], embodiment=robot)
    return sorted((tmp_path / "pick_cup").glob("*"))


def test_episodes_of_a_robot_are_named_by_folder_and_file(files, robot, native):
    found = read(RobotRecordings(files, robot))
    assert [one.episode.name for one in found] == ["pick_cup/episode_0", "pick_cup/episode_1"]
    np.testing.assert_allclose(robot.from_unified(found[0].episode.states, kind="state"), native(5)[0], atol=1e-5)


def test_two_files_of_one_name_are_refused(files, robot):
    with pytest.raises(ValueError, match="two sources are named 'pick_cup/episode_0'"):
        RobotRecordings([*files, files[0]], robot)


def test_the_round_trip_is_checked_in_native_units(robot, native):
    qpos, _ = native(4)
    unified, _ = robot.to_unified(qpos)
    check_round_trip(robot, qpos, unified, "state")
    unified[2, robot.slots[1]] += 1e-4
    with pytest.raises(ValueError, match="'right_b' at step 2 was"):
        check_round_trip(robot, qpos, unified, "state")
