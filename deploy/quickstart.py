"""`rdt quickstart`: demonstrations -> unified space -> RDT -> closed loop -> report, in the embedded simulator.

    DIR/run.json           settings of the run, and the seconds of each finished stage
    DIR/demonstrations/    ALOHA HDF5, one file an episode
    DIR/store/             the same as unified episodes
    DIR/checkpoint/        what `rdt eval` opens
    DIR/metrics.jsonl      the learning curve
    DIR/rollouts/          videos
    DIR/report.json, DIR/report.html, DIR/animation.webp

An interrupted run goes on at the stage where it stopped, and makes again what was removed; a finished one is not
repeated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.atomic import check_writable, read_json, write_json
from data_pipeline.schema.registry import find_config
from data_pipeline.selection import split_held_out
from data_pipeline.storage import EpisodeStore
from deploy.device import choose_device
from deploy.engine import InferenceEngine
from deploy.evaluate import Settings, evaluate, summary
from deploy.open_loop import open_loop
from deploy.record import ATTEMPTS_FILE, count_attempts
from deploy.report import check_installed, write_report
from deploy.train import CHECKPOINT, DEMONSTRATIONS, STORE, check, convert_demonstrations, record, runs, train
from deploy.video import find_ffmpeg, write_gif
from rdt.train.checkpoint import load_trainer_state
from rdt.train.config import TrainConfig, differences, dump_config, load_config

EPISODES = 100
"""Evaluation episodes of each instruction, in each kind of phrasing, when the caller does not say."""

OPEN_LOOP_EVERY = 8
"""Steps between the predictions that the report draws: as often as the policy is asked in closed loop."""

PRODUCTS = {
    "record": (f"{DEMONSTRATIONS}/{ATTEMPTS_FILE}",),
    "convert": (f"{STORE}/store.json",),
    "train": (CHECKPOINT,),
    "evaluate": ("evaluation.json", "open_loop.json"),
    "report": ("report.json", "report.html"),
}
"""The stages in their order, and what each leaves behind."""


def command(args: argparse.Namespace) -> None:
    *before, config = runs(load_config(find_config("train", args.config)))
    if before:
        raise ValueError(f"{args.config} starts from {config.start_from}, which `rdt train {args.config}` trains first")
    demonstrations = replace(
        config.demonstrations, seed=args.seed, per_task=args.demos or config.demonstrations.per_task
    )
    config = replace(
        config,
        seed=args.seed,
        steps=args.steps or config.steps,
        device=args.device,
        demonstrations=demonstrations,
        out=args.out,
    )
    out = Path(args.out)
    report = quickstart(config, out, args.episodes or EPISODES)
    print(f"\n{summary(report)}\n")
    print(f"report        {out / 'report.html'}")
    print("next          " + "\n              ".join(next_commands(config, out)))


def quickstart(config: TrainConfig, out: Path, episodes: int) -> dict[str, Any]:
    """Run or go on with every stage and return the report; a finished run is not repeated.

    Raises `ValueError` if `out` holds a run with other settings, or something else.
    """
    check_installed()
    find_ffmpeg()
    check(config)
    run = Run(out, {"train": yaml.safe_load(dump_config(replace(config, out=""))), "episodes": episodes})
    if "report" in run.stages:
        print(f"{out} holds the finished run of these settings; for another one give another --out")
        return read_json(out / "report.json", "remove it to write it again")
    check_writable(out)
    run.stage("record", lambda: record(config, out))
    run.stage("convert", lambda: convert_demonstrations(config, out))
    run.stage("train", lambda: train(config, out))
    run.stage("evaluate", lambda: _evaluate(config, out, episodes))
    with run.timed("report"):
        report = _report(config, out, run)
        write_json(out / "report.json", report)
        write_report(out)
        _write_animation(out)
    return report


def next_commands(config: TrainConfig, out: Path) -> list[str]:
    """Three commands to go on with."""
    checkpoint = out / CHECKPOINT
    return [
        f"rdt eval {checkpoint} --env {config.demonstrations.environment} --seed 1 --out {out / 'eval'}",
        f"rdt checkpoint inspect {checkpoint}",
        f"rdt robot explain {config.robot}",
    ]


def _evaluate(config: TrainConfig, out: Path, episodes: int) -> None:
    """Closed loop on unseen scenes, and predictions along held-out demonstrations."""
    settings = Settings(config.demonstrations.environment, episodes, config.seed, config.device)
    write_json(out / "evaluation.json", evaluate(out / CHECKPOINT, settings, out))
    engine = InferenceEngine(out / CHECKPOINT, choose_device(config.device), config.seed)
    _, held_out = split_held_out(EpisodeStore.open(out / STORE), config.data.held_out_every)
    episodes_by_task = {episode.name.split("/")[0]: episode for episode in held_out}
    write_json(
        out / "open_loop.json",
        {task: open_loop(engine, episode, OPEN_LOOP_EVERY) for task, episode in episodes_by_task.items()},
    )


def _report(config: TrainConfig, out: Path, run: Run) -> dict[str, Any]:
    state = load_trainer_state(out / CHECKPOINT)
    return {
        **read_json(out / "evaluation.json", "remove it to evaluate again"),
        "wall_seconds": round(sum(run.stages.values()), 3),
        "train_seconds": round(state["train_seconds"], 3),
        "stage_seconds": run.stages,
        "demonstrations": count_attempts(out / DEMONSTRATIONS),
        "preset": config.preset,
    }


def _write_animation(out: Path) -> None:
    """A success of each of the first two tasks side by side, for a README."""
    first_of_task: dict[str, Path] = {}
    for video in sorted((out / "rollouts").glob("*_success.mp4")):
        first_of_task.setdefault(video.name.rsplit("_", 2)[0], video)
    films = list(first_of_task.values())[:2]
    if films:
        write_gif(films[0], out / "animation.webp", *films[1:])


class Run:
    """The folder of a run: what was asked for, and which stages are done."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.path = out, out / "run.json"
        if not self.path.is_file():
            if out.is_dir() and any(out.iterdir()):
                raise ValueError(f"{out} is not empty and holds no run of this command: give another --out")
            write_json(self.path, {"settings": settings, "stages": {}})
        stored = read_json(self.path, f"remove {out}, or give another --out")
        different = differences(stored["settings"], settings)
        if different:
            raise ValueError(
                f"{out} holds a run with other settings ({', '.join(different)}): "
                "repeat its settings to go on with it, or give another --out"
            )
        self.settings = settings
        self.stages: dict[str, float] = {
            name: stored["stages"][name]
            for name, products in PRODUCTS.items()
            if name in stored["stages"] and all((out / product).exists() for product in products)
        }

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Do a stage unless it is done."""
        if name in self.stages:
            print(f"{name}: done before, in {self.stages[name]:.0f} s")
            return
        with self.timed(name):
            work()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the stage as done when the block ends well; only the last, uninterrupted try is timed."""
        started = time.perf_counter()
        yield
        self.stages[name] = round(time.perf_counter() - started, 3)
        write_json(self.path, {"settings": self.settings, "stages": self.stages})
