"""pytest tests/data_pipeline/validate/test_lerobot.py: metadata that do not fit what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_pipeline.lerobot_format import EPISODES_STATS_V2, INFO, STATS
from data_pipeline.sources.lerobot import LeRobotSource
from data_pipeline.validate.lerobot import check_lerobot
from data_pipeline.validate.validate import validate
from tests.data_pipeline.sources.test_lerobot import FPS, VERSIONS, frames, hand_written


def found(root):
    return list(check_lerobot(LeRobotSource(root), "set"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_good_dataset_is_silent(tmp_path, version):
    root = hand_written(tmp_path, version, "image")
    assert found(root) == []
    (report,) = validate(root)
    assert (report.kind, report.num_looked) == ("lerobot", 3)
    assert not report.count("error")


@pytest.mark.parametrize("file", [STATS, EPISODES_STATS_V2])
def test_impossible_statistics_are_named(tmp_path, file):
    root = hand_written(tmp_path, "v2.1", "image")
    camera = {"min": [[[0.0]]] * 3, "max": [[[1.0]]] * 3, "mean": [[[0.5]]] * 3, "std": [[[0.002]]] * 3, "count": [9]}
    state = {"min": [0.0] * 3, "max": [1.0] * 3, "mean": [0.5, 2.0, 0.5], "std": [0.1] * 3, "count": [9]}
    stats = {"observation.images.top": camera, "observation.state": state}
    row = json.dumps({"episode_index": 0, "stats": stats}) + "\n"
    (root / file).write_text(json.dumps(stats) if file == STATS else row)
    findings = found(root)
    assert {finding.kind for finding in findings} == {"bad_statistics"}
    assert {"observation.images.top" in str(finding.where) for finding in findings} == {True, False}


def test_totals(tmp_path):
    root = hand_written(tmp_path, "v3.0", "image")
    info = json.loads((root / INFO).read_text())
    (root / INFO).write_text(json.dumps({**info, "total_frames": 99}))
    (finding,) = found(root)
    assert (finding.kind, finding.found, finding.where.column) == ("wrong_totals", "99", "total_frames")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("change", [-2, 3])
def test_frames_of_videos_are_counted(tmp_path, version, change):
    pytest.importorskip("av")
    from data_pipeline.sources.video import write_video

    root = hand_written(tmp_path, version, "video")
    assert found(root) == []
    video = sorted(root.glob("videos/**/*.mp4"))[0]
    pictures = [frame for i in range(1 if version == "v2.1" else 3) for frame in frames(i)]
    pictures = pictures[:change] if change < 0 else [*pictures, *[np.zeros_like(pictures[0])] * change]
    write_video(video, pictures, FPS, "libx264", 18, 2)
    (finding,) = found(root)
    assert (finding.kind, finding.severity) == ("video_length", "error" if change < 0 else "warning")
    video.write_bytes(b"nothing")
    (finding,) = found(root)
    assert finding.kind == "video_unreadable"
