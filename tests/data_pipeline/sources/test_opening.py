"""pytest tests/data_pipeline/sources/test_opening.py"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.mapping.config import FORMATS
from data_pipeline.mapping.mapping import Mapping
from data_pipeline.mapping.sync import Sync
from data_pipeline.sources import opening
from data_pipeline.sources.hdf5 import Hdf5Source, write_episode
from data_pipeline.sources.opening import open_dataset, topic_plan


def mapping(**changes) -> Mapping:
    raw = {
        "schema": 1,
        "name": "tiny",
        "source": {"format": "hdf5", "glob": "cups/*.hdf5"},
        "fps": 12.5,
        "state": [{"to": "right_arm_joint_pos[0:2]", "from": "observations/qpos[0:2]"}],
        "action": {"mode": "next_state"},
        "cameras": {"external": "observations/images/cam_high"},
        "language": {"fields": ["instruction"]},
    }
    return Mapping.from_dict({**raw, **changes})


@pytest.fixture
def files(tmp_path, robot, native, pictures):
    qpos, action = native(5)
    for i in range(2):
        write_episode(
            tmp_path / "data" / "cups" / f"episode_{i}.hdf5",
            qpos=qpos,
            action=action,
            images={"external": pictures(5)},
            instructions=["wave"],
            embodiment=robot,
        )
    return tmp_path / "data"


def test_the_glob_starts_from_the_root_here_or_the_yaml(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = mapping(source={"format": "hdf5", "glob": f"{files}/cups/*.hdf5"})
    for opened in (
        open_dataset(mapping(), "x.yaml", files),
        open_dataset(mapping(), files / "x.yaml"),
        open_dataset(mapping(source={"format": "hdf5", "glob": "data/cups/*.hdf5"}), "x.yaml"),
        open_dataset(absolute, "x.yaml", tmp_path / "elsewhere"),
    ):
        (one,) = opened
        assert isinstance(one.source, Hdf5Source) and one.prefix == ""
        assert [shard.path.name for shard in one.source.shards()] == ["episode_0.hdf5", "episode_1.hdf5"]


def test_no_match_says_where_was_looked(tmp_path, files):
    with pytest.raises(FileNotFoundError, match=rf"nothing matches source.glob 'cups/\*.hdf5' in {tmp_path}: name"):
        open_dataset(mapping(), "x.yaml", tmp_path)


def test_fields_are_checked_before_a_record_is_read(files):
    wrong = mapping(state=[{"to": "right_arm_joint_pos[0:2]", "from": "observations/qpso[0:2]"}])
    with pytest.raises(ValueError, match="qpso"):
        open_dataset(wrong, "x.yaml", files)


def test_every_format_has_a_reader():
    assert set(FORMATS) == set(opening._SOURCES)


def test_topics_are_read_as_the_mapping_says():
    bag = mapping(
        source={"format": "mcap"},
        fps={"from": "timestamps", "field": "/cam/compressed", "resample": 25},
        state=[
            {"to": "right_arm_joint_0_pos", "from": "/js/position[0]", "sync": {"how": "linear", "max_age_s": 0.05}},
            {"to": "right_arm_joint_1_pos", "from": "/other/data[0]"},
        ],
        cameras={"external": "/cam/compressed"},
        language={"fields": ["/task/data"]},
    )
    plan = topic_plan(bag)
    assert (plan.clock, plan.resample_hz) == ("/cam/compressed", 25)
    assert plan.fields["/js/position"] == Sync("linear", 0.05)
    assert plan.fields["/other/data"] == plan.fields["/cam/compressed"] == Sync("nearest", 0.06)
    assert plan.fields["/task/data"].how == "previous" and np.isfinite(plan.fields["/task/data"].max_age_s)
    with pytest.raises(ValueError, match="need a clock"):
        topic_plan(mapping(source={"format": "mcap"}))
