"""What a user types of `rdt data convert` and `repair`, and what comes of mistakes.

Run: pytest tests/deploy/data/test_convert.py
"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from tests import sample_data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the user stands: three small datasets."""
    sample_data.make_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--workers", "0", "must be a whole number at least 1, got '0'"),
        ("--workers", "-3", "must be a whole number at least 1, got '-3'"),
        ("--workers", "two", "must be a whole number at least 1, got 'two'"),
        ("--max-shards", "0", "must be a whole number at least 1"),
        ("--max-quarantine", "-1", "must be a whole number at least 0"),
        ("--long-side", "-1", "must be a whole number at least 0"),
        ("--jpeg-quality", "101", "must be a whole number from 1 to 100, got '101'"),
        ("--job", "3/3", "takes I/N with I from 0 to N - 1, for instance 0/8, got '3/3'"),
        ("--job", "3", "takes I/N"),
    ],
)
def test_an_impossible_number_is_wrong_use(folder, capsys, option, value, message):
    with pytest.raises(SystemExit) as left:
        main(["data", "convert", "tiny_rlds.yaml", "--out", "out", option, value])
    assert left.value.code == 2 and f"argument {option}: {message}" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_robot_of_other_slots_is_told_by_their_names(folder, capsys):
    assert main(["data", "convert", "tiny_rlds.yaml", "--out", "out", "--robot", "aloha_viperx"]) == 1
    told = capsys.readouterr().err
    assert "has left_arm_joint_0_pos, left_arm_joint_1_pos" in told and "lacks right_arm_joint_6_pos" in told
    assert "int64" not in told and not (folder / "out").exists()


def test_an_archive_becomes_a_store_again(folder, capsys):
    assert main(["data", "convert", "tiny_rlds.yaml", "--out", "store"]) == 0
    assert main(["data", "export", "store", "--to", "archive", "--out", "archive"]) == 0
    assert main(["data", "repair", "archive", "--out", "again"]) == 0
    assert "nothing was wrong; 4 episodes saved in again" in capsys.readouterr().out.replace("\n", " ")
    for one, other in zip(EpisodeStore.open("store"), EpisodeStore.open("again"), strict=True):
        np.testing.assert_array_equal(one.states, other.states)
        assert (one.name, one.instructions) == (other.name, other.instructions)


@pytest.mark.parametrize("out", ["store", "store/new"])
def test_what_is_repaired_is_left_as_it_is(folder, capsys, out):
    main(["data", "convert", "tiny_rlds.yaml", "--out", "store"])
    before = sorted((folder / "store").rglob("*"))
    assert main(["data", "repair", "store", "--out", out]) == 1
    assert "which is left as it is: choose another place" in capsys.readouterr().err
    assert sorted((folder / "store").rglob("*")) == before
