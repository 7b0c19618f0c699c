"""pytest tests/data_pipeline/test_conversion.py"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipeline import conversion
from data_pipeline.atomic import WriteError
from data_pipeline.conversion import convert
from data_pipeline.mapping.paths import EpisodeError
from data_pipeline.recordings import ReadEpisode, RobotRecordings
from data_pipeline.sources.hdf5 import write_episode
from data_pipeline.sources.raw import Fault, Shard
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


@pytest.fixture
def recordings(sources, robot):
    return RobotRecordings(sources, robot)


class Made:
    """Recordings from memory: each shard a list of episodes and faults."""

    signature = "made"

    def __init__(self, folder: Path, shards: list[list]) -> None:
        self._found = shards
        self._shards = [Shard(f"s{i}", folder / f"s{i}", i) for i in range(len(shards))]

    def shards(self):
        return self._shards

    def read(self, shard):
        return iter(self._found[shard.index])


def content(folder: Path) -> dict[str, bytes]:
    """Everything that a store consists of: all but the notes of how it came about."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if not name.startswith("conversion/")}


def test_recordings_become_episodes(tmp_path, recordings, robot, native):
    seen = []
    report = convert(recordings, tmp_path / "out", robot, progress=lambda *told: seen.append(told))
    assert (report.num_shards, report.num_episodes, report.num_steps, report.joined) == (3, 3, 18, True)
    ends = [0, *accumulate(shard.path.stat().st_size for shard in recordings.shards())]
    assert seen == [*(("convert", end, ends[-1]) for end in ends), ("join", 1, 1)]
    store = EpisodeStore.open(tmp_path / "out")
    assert store.names == ("pick_cup/episode_0", "pick_cup/episode_1", "pick_cup/episode_2")
    assert store.sources["pick_cup/episode_1"] == {"file": "episode_1.hdf5"}
    for i, episode in enumerate(store):
        qpos, action = native(5 + i, seed=i)
        np.testing.assert_allclose(robot.from_unified(episode.states, kind="state"), qpos, atol=1e-5)
        np.testing.assert_allclose(robot.from_unified(episode.actions, kind="action"), action, atol=1e-5)


def test_a_second_run_converts_only_what_is_missing(tmp_path, sources, robot):
    first, both = RobotRecordings(sources[:1], robot), RobotRecordings(sources, robot)
    convert(first, tmp_path / "out", robot)
    report = convert(both, tmp_path / "out", robot)
    assert (report.num_shards_before, report.num_shards) == (1, 3)
    assert len(EpisodeStore.open(tmp_path / "out")) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_do_not_depend_on_workers_and_interruptions(tmp_path, recordings, robot, workers):
    def stop(stage, done, total):
        if done:
            raise KeyboardInterrupt

    convert(recordings, tmp_path / "whole", robot)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            convert(recordings, tmp_path / "out", robot, workers=workers, progress=stop)
    convert(recordings, tmp_path / "out", robot, workers=workers)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    again = convert(recordings, tmp_path / "out", robot)
    assert again.num_shards_before == 3 and content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_do_not_depend_on_waves(tmp_path, recordings, robot, workers):
    convert(recordings, tmp_path / "whole", robot)
    convert(recordings, tmp_path / "out", robot, workers=workers, wave_bytes=1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


STEPS_OF_A_CONVERSION = [
    "conversion.write_json",  # a shard is there, its record is not
    "conversion._Joiner._join",
    "storage.EpisodeStore.adopt",
    "storage.write_table",
    "store_tables.write_json",  # the last word of a flush
    "storage.shutil.rmtree",
    "conversion.shutil.rmtree",
]


@pytest.mark.parametrize("at", STEPS_OF_A_CONVERSION)
@pytest.mark.parametrize(("count", "wave_bytes"), [(0, 1e9), (1, 1e9), (1, 1)])
def test_a_kill_at_any_moment_leaves_what_goes_on(tmp_path, sources, robot, recordings, at, count, wave_bytes):
    """A real process that kills itself with SIGKILL when it comes to the place for the (count + 1)-th time."""
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, pickle, signal, sys
        from data_pipeline import conversion, storage, store_tables

        owner = {at.rsplit(".", 1)[0]}
        name = {at.rsplit(".", 1)[1]!r}
        real, left = getattr(owner, name), [{count}]

        def dying(*arguments, **options):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*arguments, **options)

        setattr(owner, name, dying)
        recordings, robot = pickle.loads(open(sys.argv[1], "rb").read())
        conversion.convert(recordings, sys.argv[2], robot, wave_bytes={wave_bytes})
        """)
    )
    (tmp_path / "what.pickle").write_bytes(pickle.dumps((recordings, robot)))
    command = [sys.executable, str(script), str(tmp_path / "what.pickle"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL or (count and done.returncode == 0), done.stderr
    convert(recordings, tmp_path / "out", robot)
    convert(recordings, tmp_path / "whole", robot)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_shares_of_a_job_array_are_joined_by_a_last_call(tmp_path, recordings, robot):
    convert(recordings, tmp_path / "whole", robot)
    for share in range(2):
        report = convert(recordings, tmp_path / "out", robot, job=(share, 2))
        assert not report.joined and report.num_shards == 2 - share
        assert len(EpisodeStore.open(tmp_path / "out")) == 0
    report = convert(recordings, tmp_path / "out", robot)
    assert report.joined and report.num_shards_before == 3
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def _share(share: int, recordings, out: Path, robot, start) -> None:
    start.wait()
    convert(recordings, out, robot, job=(share, 3))


def test_shares_may_begin_at_the_same_moment(tmp_path, recordings, robot):
    convert(recordings, tmp_path / "whole", robot)
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    shares = [
        spawn.Process(target=_share, args=(share, recordings, tmp_path / "out", robot, start)) for share in range(3)
    ]
    for process in shares:
        process.start()
    for process in shares:
        process.join()
    assert [process.exitcode for process in shares] == [0, 0, 0]
    assert convert(recordings, tmp_path / "out", robot).num_shards_before == 3
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(("one", "other"), [(None, None), (None, (0, 2)), ((0, 2), None)])
def test_one_conversion_at_a_time_writes_into_a_folder(tmp_path, recordings, robot, one, other):
    def meanwhile(*_):
        with pytest.raises(ValueError, match=r"another conversion writes into .*: wait until it is done"):
            convert(recordings, tmp_path / "out", robot, job=other)

    convert(recordings, tmp_path / "out", robot, job=one, progress=meanwhile)
    assert convert(recordings, tmp_path / "out", robot).joined


def test_shares_write_side_by_side(tmp_path, recordings, robot):
    def meanwhile(stage, done, total):
        if not done:
            convert(recordings, tmp_path / "out", robot, job=(1, 2))

    convert(recordings, tmp_path / "out", robot, job=(0, 2), progress=meanwhile)
    assert convert(recordings, tmp_path / "out", robot).num_shards_before == 3


def test_a_bad_recording_is_reported_and_left_out(tmp_path, sources, robot):
    sources[1].write_bytes(sources[1].read_bytes()[:3000])
    report = convert(RobotRecordings([*sources, tmp_path / "nowhere.hdf5"], robot), tmp_path / "out", robot)
    assert report.num_episodes == 2 and report.counts()["quarantined"] == {"unreadable": 2}
    damaged, absent = report.quarantined
    assert damaged.where == "pick_cup/episode_1" and "cannot be read" in damaged.message
    assert absent.where == f"{tmp_path.name}/nowhere" and "nowhere.hdf5" in absent.message


def test_a_broken_picture_is_reported(tmp_path, sources, robot):
    head, marker, tail = sources[0].read_bytes().rpartition(b"\xff\xd9")  # of the last frame
    sources[0].write_bytes(head + bytes(len(marker)) + tail)
    report = convert(RobotRecordings(sources[:1], robot), tmp_path / "out", robot)
    (fault,) = report.quarantined
    assert fault.kind == "unusable" and "cam_high, frame 4: a JPEG" in fault.message


def test_what_was_left_out_is_told_again_by_a_later_call(tmp_path, episode):
    kept, skipped = ReadEpisode(episode(name="a")), Fault("too_short", "b", "3 steps")
    damaged, mended = Fault("bad_crc", "c", "its crc"), Fault("gap", "a", "split", left_out=False)
    made = Made(tmp_path, [[kept, skipped], [damaged, mended]])
    for _ in range(2):
        report = convert(made, tmp_path / "out", None, robot_type="tiny")
        assert (report.skipped, report.quarantined, report.noted) == ([skipped], [damaged], [mended])


def test_more_left_out_than_allowed_stops_and_keeps_what_is_done(tmp_path, episode):
    made = Made(tmp_path, [[ReadEpisode(episode(name="a"))], [Fault("bad_crc", "b", "its crc")], []])
    with pytest.raises(ValueError, match="1 episodes had to be left out, more than the 0 allowed; the first: b: its"):
        convert(made, tmp_path / "out", None, max_quarantine=0)
    convert(made, tmp_path / "out", None, job=(0, 1))
    with pytest.raises(ValueError, match="more than the 0 allowed"):  # though nothing is left to be converted
        convert(made, tmp_path / "out", None, max_quarantine=0)
    report = convert(made, tmp_path / "out", None, max_quarantine=1)
    assert (report.num_shards_before, report.num_shards) == (3, 3)


def test_a_source_that_changed_is_not_taken_for_the_old_one(tmp_path, sources, recordings, robot):
    convert(recordings, tmp_path / "out", robot)
    os.utime(sources[0], ns=(0, 0))
    with pytest.raises(ValueError, match="has changed since it was converted"):
        convert(recordings, tmp_path / "out", robot)


def test_a_damaged_source_that_was_copied_again_is_converted(tmp_path, sources, recordings, robot):
    whole = sources[1].read_bytes()
    sources[1].write_bytes(whole[:3000])
    assert convert(recordings, tmp_path / "out", robot).num_episodes == 2
    sources[1].write_bytes(whole)
    report = convert(recordings, tmp_path / "out", robot)
    assert (report.num_shards_before, report.num_episodes, report.quarantined) == (2, 3, [])
    assert EpisodeStore.open(tmp_path / "out").names[-1] == "pick_cup/episode_1"


def test_faults_come_in_the_order_of_the_shards(tmp_path, episode):
    made = Made(tmp_path, [[Fault("bad_crc", f"r{i}", "its crc")] for i in range(3)])
    convert(made, tmp_path / "out", None, job=(1, 2))
    assert [fault.where for fault in convert(made, tmp_path / "out", None).quarantined] == ["r0", "r1", "r2"]


@pytest.mark.parametrize("shards", [["aa"], ["a", "a"]])
@pytest.mark.parametrize("wave_bytes", [1e9, 1])
def test_two_episodes_of_one_name_are_told(tmp_path, episode, shards, wave_bytes):
    made = Made(tmp_path, [[ReadEpisode(episode(name=name)) for name in names] for names in shards])
    with pytest.raises(ValueError, match=f"two episodes are named 'a', in s0 and s{len(shards) - 1}"):
        convert(made, tmp_path / "out", None, wave_bytes=wave_bytes)


def test_a_store_of_other_episodes_is_not_added_to(tmp_path, recordings, robot, episode):
    with EpisodeStore.create(tmp_path / "out", robot) as store:
        store.add(episode(name="recorded"))
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match="holds episodes that were not converted into it: convert into a new folder"):
        convert(recordings, tmp_path / "out", robot)
    assert content(tmp_path / "out") == before and not (tmp_path / "out/conversion").exists()


class Awkward(Made):
    """Its second shard fails as no source should."""

    def read(self, shard):
        yield from super().read(shard)
        if shard.index == 1:
            raise EpisodeError("odd", "an error that does not survive the way from a worker")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unforeseen_error_names_the_shard(tmp_path, episode, workers):
    made = Awkward(tmp_path, [[ReadEpisode(episode(name=name))] for name in "abc"])
    with pytest.raises(
        RuntimeError, match=r"s1 cannot be converted \(EpisodeError: an error that .*what is done is kept"
    ):
        convert(made, tmp_path / "out", None, workers=workers)
    assert not list((tmp_path / "out").rglob(".*"))
    made = Made(tmp_path, made._found)
    assert convert(made, tmp_path / "out", None).num_episodes == 3


class Growing(Made):
    def read(self, shard):
        yield from super().read(shard)
        shard.path.write_text("more")


def test_a_source_that_changes_while_it_is_read_is_told(tmp_path, episode):
    made = Growing(tmp_path, [[ReadEpisode(episode(name="a"))]])
    with pytest.raises(RuntimeError, match="it changed while it was read"):
        convert(made, tmp_path / "out", None)
    assert len(EpisodeStore.open(tmp_path / "out")) == 0


def test_another_plan_needs_another_folder(tmp_path, sources, recordings, robot):
    convert(recordings, tmp_path / "out", robot)
    with pytest.raises(ValueError, match="holds a conversion of another dataset"):
        convert(RobotRecordings(sources, robot, colour="bgr"), tmp_path / "out", robot)


def test_a_staged_file_that_was_damaged_is_made_again(tmp_path, recordings, robot):
    convert(recordings, tmp_path / "out", robot, job=(0, 1))
    (staged, *_) = sorted((tmp_path / "out/conversion").rglob("*.parquet"))
    damaged = bytearray(staged.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    staged.write_bytes(damaged)
    with pytest.raises(ValueError, match="was damaged after it was written: repeat the command"):
        convert(recordings, tmp_path / "out", robot)
    assert convert(recordings, tmp_path / "out", robot).num_episodes == 3


def test_source_columns_that_do_not_fit_are_left_behind_and_told(tmp_path, episode):
    shards = [
        [ReadEpisode(episode(name="a"), {"effort": np.zeros((9, 2), np.float32), "x": np.arange(9)})],
        [ReadEpisode(episode(name="b"), {"effort": np.zeros((9, 3), np.float32), "x": np.arange(9)})],
    ]
    report = convert(Made(tmp_path, shards), tmp_path / "out", None)
    (fault,) = report.noted
    assert (fault.kind, fault.where) == ("source_column", "b") and "source.effort" in fault.message
    store = EpisodeStore.open(tmp_path / "out")
    assert [sorted(store.native(i)) for i in range(2)] == [["effort", "x"], ["x"]]


def test_a_silent_sensor_of_the_source_costs_no_conversion(tmp_path, episode):
    force, never = np.zeros((9, 2)), np.full(9, np.nan)
    force[3:5, 1] = np.nan
    made = Made(tmp_path, [[ReadEpisode(episode(name=name), {"force": force, "never": never})] for name in "ab"])
    convert(made, tmp_path / "out", None)
    store = EpisodeStore.open(tmp_path / "out")
    np.testing.assert_array_equal(store.native(1)["force"], force)
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert stats["source.force"]["count"] == [14] and "source.never" not in stats


def test_a_full_disk_stops_the_conversion(tmp_path, recordings, robot, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(WriteError, match="the disk is full"):
        convert(recordings, tmp_path / "out", robot)


def test_names_that_differ_in_odd_characters_alone_have_folders_of_their_own(tmp_path):
    shards = [Shard(name, tmp_path) for name in ("a/b", "a_b", "a b", "…/" + "x" * 200, "../up")]
    folders = {conversion._folder(tmp_path, shard) for shard in shards}
    assert len(folders) == 5 and all(folder.parent == tmp_path / "conversion" for folder in folders)


def test_a_cluster_gives_the_same_bytes(tmp_path, recordings, robot):
    pytest.importorskip("ray")
    convert(recordings, tmp_path / "whole", robot)
    convert(recordings, tmp_path / "out", robot, engine="ray", workers=2)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_no_ray_is_told(tmp_path, recordings, robot, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[cluster\]'"):
        convert(recordings, tmp_path / "out", robot, engine="ray")
