"""The HTML report of a quick start: one page that shows a colleague what was learnt, how well, and how.

`write_report` reads only the run folder: `report.json` (required), `metrics.jsonl`, `open_loop.json` and
`rollouts/*.mp4`. What is absent is left out of the page; a video or a line that cannot be read is named in its notes.
Pictures are inside the page, videos stay beside it. The page needs no network and no JavaScript.
"""

from __future__ import annotations

import json
import re
import shlex
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import write_text
from deploy import plots
from deploy.doctor import require
from deploy.intervals import wilson_interval
from deploy.pages import Picture, picture, render
from deploy.plots import Bar, Chunk, percent
from deploy.video import VIDEO_PACKAGES, UnreadableVideoError, load_video

REQUIRED_KEYS = ("success_rate", "success_interval_95", "benchmark_success_rate", "tasks", "control", "episodes")
PACKAGES = {"jinja2": "jinja2", "matplotlib": "matplotlib", "scipy": "scipy", **VIDEO_PACKAGES}

STRIP_MOMENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the video
STRIP_WIDTH, POSTER_WIDTH = 240, 320  # pixels
POSTER_MOMENT = 0.6  # first frames all look the same
MAX_PLAYERS = 12  # videos with a player and a poster; the others become links
VIDEO_NAME = re.compile(r"(?P<task>.+)_(?P<seed>-?\d+)_(?P<outcome>success|failure)")


@dataclass(frozen=True)
class Video:
    """A rollout; its file name `<task>_<seed>_<success|failure>.mp4` tells what it shows."""

    path: Path
    task: str
    seed: int | None = None
    outcome: str = ""  # success, failure, or empty where the name does not tell

    @property
    def href(self) -> str:
        """Relative to the page."""
        return f"{self.path.parent.name}/{urllib.parse.quote(self.path.name)}"

    @property
    def title(self) -> str:
        return _spaced(self.task) + ("" if self.seed is None else f", scene {self.seed}")


@dataclass
class Page:
    """What the template shows; empty parts are left out."""

    subtitle: list[str]
    summary: list[str]
    facts: list[tuple[str, str, str]] = field(default_factory=list)  # what, value, detail
    success_charts: list[Picture] = field(default_factory=list)
    success_columns: list[str] = field(default_factory=list)
    success_rows: list[dict[str, Any]] = field(default_factory=list)  # task, phrasings, instructions, cells
    control: list[tuple[str, str]] = field(default_factory=list)  # task, how often it was done
    control_told: str = ""
    strips: list[tuple[Video, list[Picture]]] = field(default_factory=list)
    players: list[tuple[Video, Picture]] = field(default_factory=list)
    more_videos: list[Video] = field(default_factory=list)
    learning: list[Picture] = field(default_factory=list)
    actions: list[tuple[str, list[Picture]]] = field(default_factory=list)
    stages: Picture | None = None
    timings: list[tuple[str, str]] = field(default_factory=list)
    origin: list[tuple[str, str]] = field(default_factory=list)
    demonstrations: list[tuple[str, int, int]] = field(default_factory=list)  # task, accepted, attempts
    reproduce: str = ""
    next_commands: list[tuple[str, str]] = field(default_factory=list)  # command, what it shows
    notes: list[str] = field(default_factory=list)  # what could not be read, and what went wrong


def check_installed() -> None:
    """Raise `ModuleNotFoundError` that names what the report lacks and the words that install it."""
    require("the report", PACKAGES)


def write_report(run: Path) -> Path:
    """Write `run/report.html` from what the run folder holds, whole or not at all. Returns its path.

    Raises `ValueError` that names the file for a `report.json` or `open_loop.json` that is not as agreed.
    """
    check_installed()

    run = Path(run)
    report = _read_report(run / "report.json")
    metrics, notes = _read_metrics(run / "metrics.jsonl")
    if report.get("faults"):
        notes.append(
            f"In {report['faults']} episodes the guard gave up and the robot held still; they count as they ended."
        )
    seed = "" if report.get("seed") is None else f"seed {report['seed']}"
    subtitle = [part for part in (report.get("environment"), report.get("preset"), seed) if part]
    page = Page(subtitle, _summary(report), _facts(report), notes=notes)
    _add_success(page, report)
    _add_videos(page, run / "rollouts", list(report["tasks"]))
    page.learning = _learning(metrics)
    page.actions = _actions(run / "open_loop.json")
    _add_timings(page, report)
    _add_origin(page, report, metrics, str(report.get("checkpoint") or run / "checkpoint"))
    write_text(run / "report.html", render("report.html.j2", page=page, spaced=_spaced))
    return run / "report.html"


# --- the numbers ---------------------------------------------------------------------------------------------------


def _read_report(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: give the folder that `rdt quickstart --out` wrote")
    report = _read_json(path)
    missing = [key for key in REQUIRED_KEYS if key not in report]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return report


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of keys, got {type(content).__name__}")
    return content


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a training log in order of steps, and notes about lines that a killed run left torn.

    A run that was resumed repeats the steps since its checkpoint: the rows of the last pass count.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows: list[dict[str, Any]] = []
    torn: list[str] = []
    for number, line in enumerate(lines, start=1):
        row = _metrics_row(line)
        if row is None:
            torn.append(str(number))
            continue
        while rows and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    notes = [f"{path.name}: left out what is not a row with a step, line {', '.join(torn)}"] if torn else []
    return rows, notes


def _metrics_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _summary(report: Mapping[str, Any]) -> list[str]:
    """Three sentences: the headline with its interval, what stands beside it, what it took."""
    tasks = report["tasks"].values()
    counts = [task.get("episodes") or 0 for task in tasks]
    episodes = f"{sum(counts) or report['episodes']} episodes"
    if report["success_rate"] is None:
        first = f"The policy was run for {episodes}; there is no strict test of success"
    else:
        first = f"Told what to do in the phrasings of training, the policy did it in {percent(report['success_rate'])}"
        first += f" of {episodes}"
        if report["success_interval_95"]:
            low, high = report["success_interval_95"]
            first += f" (95\u00a0% interval {percent(low)} to {percent(high)})"
        first += ", by the strict test: the job is done when the episode ends"

    second = []
    cells = [task.get("held_out_phrasings") or {} for task in tasks]
    held_out = [cell["success_rate"] for cell in cells if cell.get("success_rate") is not None]
    if held_out:
        second.append(f"in phrasings it never saw it is {percent(min(held_out))} in the weakest task")
    if report["benchmark_success_rate"] is not None:
        rate = percent(report["benchmark_success_rate"])
        second.append(f"by the benchmark's own reward, which a moment of success satisfies, it is {rate}")
    wrong = [task["wrong_task_rate"] for task in tasks if task.get("wrong_task_rate") is not None]
    if wrong:
        second.append(
            f"another task than the one asked for was done in at most {percent(max(wrong))} of a task's episodes"
        )

    third = []
    accepted = [counts["accepted"] for counts in (report.get("demonstrations") or {}).values()]
    if accepted:
        third.append(f"it learned from {sum(accepted)} scripted demonstrations")
    if report.get("train_seconds") is not None:
        third.append(f"training took {_duration(report['train_seconds'])}")
    if report.get("wall_seconds") is not None:
        third.append(f"the whole run took {_duration(report['wall_seconds'])}")
    return [_sentence(parts) for parts in ([first], second, third) if parts]


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers that one looks for first."""
    facts = [("strict success", _share(report["success_rate"]), _span(report["success_interval_95"]))]
    if report["benchmark_success_rate"] is not None:
        facts.append(("benchmark success", percent(report["benchmark_success_rate"]), "the benchmark's own reward"))
    if report.get("train_seconds") is not None:
        million = f"{report['parameters'] / 1e6:.2f} M parameters" if report.get("parameters") else ""
        facts.append(("training", _duration(report["train_seconds"]), million))
    latency = report.get("action_latency_ms") or {}
    if latency.get("p50") is not None:
        facts.append(("one action chunk", _milliseconds(latency["p50"]), "median, observation to actions"))
    return facts


def _add_success(page: Page, report: Mapping[str, Any]) -> None:
    """A chart and table rows for each task, the control beside them."""
    columns = {
        "strict success": lambda cell: _share(cell.get("success_rate")),
        "95\u00a0% interval": lambda cell: _span(cell.get("success_interval_95")),
        "against trained phrasings": lambda cell: _points(cell.get("difference_interval_95")),
        "benchmark": lambda cell: _share(cell.get("benchmark_success_rate")),
        "wrong task": lambda cell: _share(cell.get("wrong_task_rate")),
        "instructed arm first": lambda cell: _share(cell.get("first_touch_rate")),
        "episodes": lambda cell: str(cell.get("episodes") or ""),
    }
    for name, task in report["tasks"].items():
        phrasings = {"trained phrasings": task, "held-out phrasings": task.get("held_out_phrasings") or {}}
        groups = {heading: _success_bars(cell) for heading, cell in phrasings.items()}
        groups = {heading: bars for heading, bars in groups.items() if bars}
        if groups:
            alt = "; ".join(f"{heading}: {_told(bars)}" for heading, bars in groups.items())
            page.success_charts.append(picture(plots.rate_bars(groups), alt, _spaced(name)))
        page.success_rows += [
            {
                "task": _spaced(name),
                "phrasings": heading,
                "instructions": cell.get("instructions") or [],
                "cells": [show(cell) for show in columns.values()],
            }
            for heading, cell in phrasings.items()
            if cell
        ]
    filled = [any(row["cells"][i] for row in page.success_rows) for i in range(len(columns))]
    page.success_columns = [name for name, keep in zip(columns, filled, strict=True) if keep]
    for row in page.success_rows:
        row["cells"] = [cell for cell, keep in zip(row["cells"], filled, strict=True) if keep]
    control = report.get("control") or {}
    bars = [
        _bar(_spaced(task), rate, control, "control")
        for task, rate in (control.get("did") or {}).items()
        if rate is not None
    ]
    if bars:
        title = f"control: told only “{control['instruction']}”"
        page.success_charts.append(picture(plots.rate_bars({"what it did": bars}), _told(bars), title))
        page.control_told = f"Told only “{control['instruction']}”"
        page.control_told += f" in {control['episodes']} episodes, it did:" if control.get("episodes") else ", it did:"
        page.control = [(bar.label, percent(bar.rate)) for bar in bars]


def _success_bars(cell: Mapping[str, Any]) -> list[Bar]:
    """Strict, benchmark and wrong task, as far as they are known."""
    rates = {"strict": "success_rate", "benchmark": "benchmark_success_rate", "wrong task": "wrong_task_rate"}
    return [_bar(kind, cell[key], cell, kind) for kind, key in rates.items() if cell.get(key) is not None]


def _bar(label: str, rate: float, cell: Mapping[str, Any], kind: str) -> Bar:
    """With the interval that the run states, else the one that the number of episodes implies."""
    if kind == "strict" and cell.get("success_interval_95"):
        return Bar(label, rate, tuple(cell["success_interval_95"]), kind)
    return Bar(
        label,
        rate,
        wilson_interval(round(rate * cell["episodes"]), cell["episodes"]) if cell.get("episodes") else None,
        kind,
    )


def _told(bars: Iterable[Bar]) -> str:
    return ", ".join(f"{bar.label} {percent(bar.rate)}" for bar in bars)


def _learning(rows: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Training loss and held-out error over the time of training."""
    kinds = {
        "loss": ("training loss", "Thin: as logged. Thick: the mean over neighbours.", len(rows) // 20),
        "overall_avg_sample_mse": (
            "held-out error",
            "Mean squared error of sampled chunks on demonstrations kept out of training, in unified units.",
            1,
        ),
    }
    pictures = []
    for key, (label, caption, smooth) in kinds.items():
        points = [row for row in rows if row.get(key) is not None]
        if len(points) < 2:
            continue
        steps, values = [row["step"] for row in points], [row[key] for row in points]
        seconds = [row["seconds"] for row in points] if all("seconds" in row for row in points) else None
        alt = f"{label} from {values[0]:.3g} at step {steps[0]} to {values[-1]:.3g} at step {steps[-1]}"
        pictures.append(picture(plots.learning_curve(steps, values, seconds, label, smooth), alt, label, caption))
    return pictures


def _actions(path: Path) -> list[tuple[str, list[Picture]]]:
    """For each task and arm: predicted chunks over a held-out demonstration."""
    shown = []
    for task, record in (_read_json(path) if path.is_file() else {}).items():
        names = record["names"]
        demonstration = np.array(record["demonstration"], dtype=float)
        chunks = [Chunk(chunk["start"], np.array(chunk["actions"], dtype=float)) for chunk in record["chunks"]]
        for actions in [demonstration, *(chunk.actions for chunk in chunks)]:
            if actions.ndim != 2 or actions.shape[1] != len(names):
                raise ValueError(f"{path}: {task} has {len(names)} names, but actions of shape {actions.shape}")
        sides = {name.split("_")[0] if name.startswith(("left_", "right_")) else "" for name in names}
        pictures = []
        for side in sorted(sides):
            entries = [i for i, name in enumerate(names) if name.startswith(side)]
            part = [Chunk(chunk.start, chunk.actions[:, entries]) for chunk in chunks]
            labels = [names[i].removeprefix(side).strip("_") for i in entries]
            png = plots.action_panels(labels, demonstration[:, entries], part, record["rate_hz"])
            alt = f"predicted and demonstrated actions of {', '.join(labels)}"
            caption = _miss(labels, demonstration[:, entries], part)
            pictures.append(picture(png, alt, f"{side} arm" if side else "", caption))
        shown.append((task, pictures))
    return shown


def _miss(labels: Sequence[str], demonstration: np.ndarray, chunks: Sequence[Chunk]) -> str:
    """How far predictions are from the demonstration, in words."""
    pairs = [(chunk.actions, demonstration[chunk.start :][: len(chunk.actions)]) for chunk in chunks]
    errors = [np.abs(actions[: len(truth)] - truth) for actions, truth in pairs if len(truth)]
    if not errors:
        return ""
    mean = np.concatenate(errors).mean(axis=0)
    gripper = np.array(["gripper" in label for label in labels])
    parts = [f"joints {mean[~gripper].mean():.3f}\u00a0rad"] if not gripper.all() else []
    parts += [f"gripper {mean[gripper].mean():.3f} of its opening"] if gripper.any() else []
    return f"Mean distance between predicted and demonstrated: {', '.join(parts)}."


def _add_timings(page: Page, report: Mapping[str, Any]) -> None:
    """Wall time of the stages, and how long one chunk takes."""
    stages = {name: seconds for name, seconds in (report.get("stage_seconds") or {}).items() if seconds is not None}
    if stages:
        alt = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items())
        page.stages = picture(plots.stage_bars(stages), alt)
    latency = report.get("action_latency_ms") or {}
    named = {
        "one action chunk, median": _milliseconds(latency.get("p50")),
        "one action chunk, 99th percentile": _milliseconds(latency.get("p99")),
        "optimizer steps": _duration(report.get("train_seconds")),
        "whole run": _duration(report.get("wall_seconds")),
    }
    page.timings = [(name, value) for name, value in named.items() if value]


def _add_origin(page: Page, report: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], checkpoint: str) -> None:
    """What made the result, the words that make it again, and what to type next."""
    for key in ("environment", "preset", "parameters", "seed", "renderer", "checkpoint"):
        if report.get(key) is not None:
            value = report[key]
            page.origin.append((key, f"{value:,}" if key == "parameters" else str(value)))
    page.origin += [(name, str(version)) for name, version in (report.get("versions") or {}).items()]
    page.demonstrations = [
        (_spaced(task), counts["accepted"], counts["attempts"])
        for task, counts in (report.get("demonstrations") or {}).items()
    ]
    options = {
        "--demos": _common(accepted for _, accepted, _ in page.demonstrations),
        "--steps": metrics[-1]["step"] if metrics else None,
        "--episodes": _common(task.get("episodes") for task in report["tasks"].values()),
        "--seed": report.get("seed"),
    }
    words = ["rdt", "quickstart", "--out", "runs/again"]
    for option, value in options.items():
        words += [] if value is None else [option, str(value)]
    page.reproduce = shlex.join(words)
    page.next_commands = [
        (
            shlex.join(
                ["rdt", "eval", checkpoint, "--env", "sim_transfer", "--episodes", "100", "--out", "runs/benchmark"]
            ),
            "the same policy on the boxes of the published benchmark",
        ),
        (shlex.join(["rdt", "checkpoint", "inspect", checkpoint]), "what the checkpoint holds"),
        ("rdt robot explain aloha_viperx", "how a real pair of arms maps onto the same 128 slots"),
    ]


# --- the films -----------------------------------------------------------------------------------------------------


def _add_videos(page: Page, folder: Path, order: Sequence[str]) -> None:
    """Per task, in that order: a strip of one success, players for successes and failures, links for the rest."""
    videos = [_video(path) for path in sorted(folder.glob("*.mp4"))]
    videos.sort(key=lambda v: (order.index(v.task) if v.task in order else len(order), v.task, v.seed or 0))
    tasks = list(dict.fromkeys(video.task for video in videos))
    for task in tasks:
        mine = sorted((video for video in videos if video.task == task), key=lambda video: video.outcome != "success")
        strip = _frames(page, mine[0], STRIP_MOMENTS, STRIP_WIDTH)
        if strip:
            page.strips.append((mine[0], strip))
        for video in _choose(mine, max(1, MAX_PLAYERS // len(tasks))):
            page.players += [(video, poster) for poster in _frames(page, video, [POSTER_MOMENT], POSTER_WIDTH)]
    shown = [video for video, _ in page.players]
    page.more_videos = [video for video in videos if video not in shown]


def _frames(page: Page, video: Video, moments: Sequence[float], width: int) -> list[Picture]:
    """Pictures of a video at shares of its length; none, but a note, where it cannot be read."""
    try:
        frames, fps = load_video(video.path)
    except UnreadableVideoError as error:
        if str(error) not in page.notes:
            page.notes.append(str(error))
        return []
    indices = [round(moment * (len(frames) - 1)) for moment in moments]
    return [
        picture(
            plots.frame_png(frames[i], width), f"{video.title} after {i / fps:.1f} s", caption=f"{i / fps:.1f}\u00a0s"
        )
        for i in indices
    ]


def _video(path: Path) -> Video:
    match = VIDEO_NAME.fullmatch(path.stem)
    return Video(path, match["task"], int(match["seed"]), match["outcome"]) if match else Video(path, path.stem)


def _choose(videos: Sequence[Video], count: int) -> list[Video]:
    """That many, up to half of them failures: a report that hides them teaches nothing."""
    failures = [video for video in videos if video.outcome == "failure"]
    others = [video for video in videos if video.outcome != "failure"]
    num_failures = min(len(failures), max(count // 2, count - len(others)))
    return others[: count - num_failures] + failures[:num_failures]


# --- words ---------------------------------------------------------------------------------------------------------


def _share(rate: float | None) -> str:
    return "" if rate is None else percent(rate)


def _span(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{percent(interval[0])[:-2]}\u2013{percent(interval[1])}"


def _points(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f} points"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}\u00a0ms"


def _duration(seconds: float | None) -> str:
    """12.3 s, or 4 min 50 s."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h {minutes}\u00a0min" if hours else f"{minutes}\u00a0min {rest}\u00a0s"


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _common(values: Iterable[Any]) -> Any:
    """The value that all have, or None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
