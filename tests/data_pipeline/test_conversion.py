"""pytest tests/data_pipeline/test_conversion.py"""

from __future__ import annotations

import errno
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipeline.atomic import WriteError
from data_pipeline.conversion import check_round_trip, convert
from data_pipeline.sources.hdf5 import write_episode
from data_pipeline.storage import EpisodeStore


@pytest.fixture
def sources(tmp_path, robot, native, pictures):
    paths = []
    for i in range(3):
        qpos, action = native(5 + i, seed=i)
        paths.append(tmp_path / "pick_cup" / f"episode_{i}.hdf5")
        images = {"external": pictures(5 + i, i)}
        write_episode(paths[-1], qpos=qpos, action=action, images=images, instructions=["wave"], embodiment=robot)
    return paths


def test_recordings_become_episodes(tmp_path, sources, robot, native):
    seen = []
    report = convert(sources, tmp_path / "out", robot, progress=lambda *done: seen.append(done))
    assert report.converted == ["pick_cup/episode_0", "pick_cup/episode_1", "pick_cup/episode_2"]
    assert seen == [(i + 1, 3, name) for i, name in enumerate(report.converted)]
    for i, episode in enumerate(EpisodeStore.open(tmp_path / "out")):
        qpos, action = native(5 + i, seed=i)
        np.testing.assert_allclose(robot.from_unified(episode.states, kind="state"), qpos, atol=1e-5)
        np.testing.assert_allclose(robot.from_unified(episode.actions, kind="action"), action, atol=1e-5)


def test_a_second_run_converts_only_what_is_missing(tmp_path, sources, robot):
    convert(sources[:1], tmp_path / "out", robot)
    report = convert(sources, tmp_path / "out", robot)
    assert report.skipped == ["pick_cup/episode_0"] and len(report.converted) == 2
    assert len(EpisodeStore.open(tmp_path / "out")) == 3


def test_an_interrupted_run_goes_on(tmp_path, sources, robot):
    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(sources, tmp_path / "out", robot, progress=stop)
    report = convert(sources, tmp_path / "out", robot)
    assert (len(report.skipped), len(report.converted)) == (2, 1)


def test_a_bad_recording_is_reported_and_left_out(tmp_path, sources, robot):
    sources[1].write_bytes(sources[1].read_bytes()[:3000])
    report = convert([*sources, tmp_path / "nowhere.hdf5"], tmp_path / "out", robot)
    assert len(report.converted) == 2
    assert "cannot be read" in report.failed["pick_cup/episode_1"]
    assert "nowhere.hdf5" in report.failed[f"{tmp_path.name}/nowhere"]


def test_a_broken_picture_is_reported(tmp_path, sources, robot):
    head, marker, tail = sources[0].read_bytes().rpartition(b"\xff\xd9")  # of the last frame
    sources[0].write_bytes(head + bytes(len(marker)) + tail)
    report = convert(sources[:1], tmp_path / "out", robot)
    assert "cam_high, frame 4: a JPEG" in report.failed["pick_cup/episode_0"]


def test_a_changed_recording_is_not_taken_for_the_old_one(tmp_path, sources, robot):
    convert(sources, tmp_path / "out", robot)
    os.utime(sources[0], ns=(0, 0))
    assert "has changed" in convert(sources, tmp_path / "out", robot).failed["pick_cup/episode_0"]


def test_two_sources_of_one_name_are_refused(tmp_path, sources, robot):
    with pytest.raises(ValueError, match="two sources are named 'pick_cup/episode_0'"):
        convert([*sources, sources[0]], tmp_path / "out", robot)


def test_a_full_disk_stops_the_conversion(tmp_path, sources, robot, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(WriteError, match="the disk is full"):
        convert(sources, tmp_path / "out", robot)


def test_the_round_trip_is_checked_in_native_units(robot, native):
    qpos, _ = native(4)
    unified, _ = robot.to_unified(qpos)
    check_round_trip(robot, qpos, unified, "state")
    unified[2, robot.slots[1]] += 1e-4
    with pytest.raises(ValueError, match="'right_b' at step 2 was"):
        check_round_trip(robot, qpos, unified, "state")
