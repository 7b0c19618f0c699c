"""pytest tests/deploy/data/test_inspect.py"""

from __future__ import annotations

import pytest

from deploy.cli import main
from tests import sample_data
from tests.data_pipeline.sources.test_mcap import make_messages, write_mcap


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *words: str) -> str:
    assert main(["data", *words]) == 0
    return capsys.readouterr().out


def test_recordings_are_listed_by_field(folder, capsys):
    sample_data.make_lerobot(folder)
    text = said(capsys, "inspect", "tiny_lerobot", "--starter", "mine.yaml")
    assert "3 shards" in text and "array  observation.state" in text and "image  observation.images.top" in text
    assert "check it line by line" in text
    assert "right_gripper_joint_0_pos  opening in [0, 1]  observation.state[6]" in said(capsys, "inspect", "mine.yaml")


def test_topics_are_listed_by_rate(folder, capsys):
    write_mcap(folder / "takes/one.mcap", make_messages())
    write_mcap(folder / "takes/two.mcap", make_messages())
    text = said(capsys, "inspect", "takes")
    assert "one.mcap, the first of 2 recordings" in text and "sensor_msgs/msg/JointState" in text


def test_a_store_is_summed_up(folder, capsys):
    dataset = sample_data.make_rlds(folder)
    assert main(["data", "convert", dataset.yaml.name, "--out", "store", "--workers", "1"]) == 0
    text = said(capsys, "inspect", "store")
    assert "4 episodes, 168 steps, 17 s" in text and "franka (without a description" in text
    assert "state         10      right_gripper_joint_0_pos" in text
    assert "'Pick up the red block.' in 4 episodes" in text and "source's own  observation/state, action" in text
    assert "fits the files there: 2 shards" in said(capsys, "inspect", dataset.yaml.name, "--root", ".")


def test_recordings_without_a_file_are_inspected(folder, capsys):
    dataset = sample_data.make_rlds(folder)
    info = folder / "tiny_rlds/0.1.0/dataset_info.json"
    info.write_text('{"name": "tiny_rlds", "splits": [{"name": "train", "shardLengths": []}]}')
    assert "0 shards\n" in said(capsys, "inspect", "tiny_rlds")
    assert "0 shards\n" in said(capsys, "inspect", dataset.yaml.name, "--root", ".")
