"""What the metadata of a LeRobot dataset say against what is there: statistics, counts, frames of its videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_pipeline.atomic import read_json
from data_pipeline.lerobot_format import EPISODES_STATS_V2, STATS, read_json_lines
from data_pipeline.sources.lerobot import LeRobotSource
from data_pipeline.sources.video import read_index
from data_pipeline.validate.findings import Finding, Severity, Where, of_fault

_ADVICE = "compute the statistics anew; this stack never reads them, other tools do"


def check_lerobot(source: LeRobotSource, dataset: str) -> Iterator[Finding]:
    """Everything that needs no row of the data."""
    for fault in source.faults():
        yield of_fault(fault, dataset)
    for name, stats in _stored(source):
        for key, of in stats.items():
            wrong = impossible(of)
            if wrong:
                place = Where(dataset, name, column=key)
                yield Finding("error", "bad_statistics", place, "statistics that numbers can have", wrong, _ADVICE)
    yield from _counts(source, dataset)
    yield from _videos(source, dataset)


def impossible(of: Mapping[str, Any]) -> str:
    """What no numbers can have as their statistics, in words; "" where all is possible."""
    try:
        known = {key: np.asarray(of[key], dtype=np.float64) for key in ("min", "max", "mean", "std") if key in of}
    except (TypeError, ValueError):
        return "not numbers of one shape"
    if any(not np.isfinite(values).all() for values in known.values()):
        return "not finite"
    low, high, mean, std = (known.get(key) for key in ("min", "max", "mean", "std"))
    if std is not None and (std < 0).any():
        return f"a deviation of {std.min():.4g}"
    if low is None or high is None or low.shape != high.shape:
        return ""
    width = np.abs(high - low)
    slack = 1e-4 * np.maximum(width, np.maximum(np.abs(low), np.abs(high))) + 1e-8
    if (low > high + slack).any():
        return "a minimum above its maximum"
    if mean is not None and mean.shape == low.shape and ((mean < low - slack) | (mean > high + slack)).any():
        return "a mean outside minimum .. maximum"
    if std is not None and std.shape == low.shape and (std > width / 2 + slack).any():  # more than any values have
        return "a deviation larger than half the range"
    return ""


def _stored(source: LeRobotSource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if (source.root / STATS).is_file():
        yield STATS, read_json(source.root / STATS, _ADVICE)
    elif (source.root / EPISODES_STATS_V2).is_file():
        for row in read_json_lines(source.root / EPISODES_STATS_V2):
            yield f"{EPISODES_STATS_V2}, episode {row['episode_index']}", row["stats"]


def _counts(source: LeRobotSource, dataset: str) -> Iterator[Finding]:
    """Totals of info.json against the table of episodes."""
    totals = {"total_episodes": source.num_episodes, "total_frames": source.num_steps, "total_tasks": len(source.tasks)}
    for key, counted in totals.items():
        said = source.info.get(key)
        if said is not None and said != counted:
            yield Finding(
                "warning" if key == "total_tasks" else "error",
                "wrong_totals",
                Where(dataset, "meta/info.json", column=key),
                f"{counted}, as the tables say",
                str(said),
                "the dataset is cut or was not finished: copy it again, or `rdt data repair`",
            )


def _videos(source: LeRobotSource, dataset: str) -> Iterator[Finding]:
    for path, expected in sorted(source.video_lengths().items()):
        place = Where(dataset, path.relative_to(source.root).as_posix())
        advice = "the video and the table are of different versions: copy both again"
        if not path.is_file():
            continue  # each of its episodes says so
        try:
            found = read_index(path).num_frames
        except ValueError as error:
            yield Finding("error", "video_unreadable", place, "a video", str(error), "copy the file again")
            continue
        if found != expected:
            severity: Severity = "error" if found < expected else "warning"
            told = f"{expected} frames, as the table of episodes says"
            yield Finding(severity, "video_length", place, told, f"{found}", advice)
