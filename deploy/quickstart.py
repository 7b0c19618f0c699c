"""`rdt quickstart`: demonstrations -> unified space -> RDT -> closed loop -> report, in the embedded simulator.

    DIR/run.json           settings of the run, and the seconds of each finished stage
    DIR/demonstrations/    ALOHA HDF5, one file an episode
    DIR/store/             the same as unified episodes
    DIR/checkpoint/        what `rdt eval` opens
    DIR/metrics.jsonl      the learning curve
    DIR/rollouts/          videos
    DIR/report.json, DIR/report.html

An interrupted run goes on at the stage where it stopped; a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.atomic import write_json
from data_pipeline.schema.registry import find_config
from deploy.device import choose_device
from deploy.doctor import versions
from deploy.evaluate import EvaluationSettings, evaluate
from deploy.record import count_attempts
from deploy.report import write_report
from deploy.train import convert_demonstrations, record_for, train
from rdt.train.config import TrainConfig, dump_config, load_config

EPISODES = 100
"""Evaluation episodes of each instruction when the caller does not say."""


def command(args: argparse.Namespace) -> None:
    config = load_config(find_config("train", args.config))
    config = replace(config, seed=args.seed, steps=args.steps or config.steps, device=args.device)
    demonstrations = replace(config.demonstrations, seed=args.seed)
    if args.demos:
        demonstrations = replace(demonstrations, per_task=args.demos)
    config = replace(config, demonstrations=demonstrations, out=args.out)
    choose_device(args.device)
    out = Path(args.out)
    quickstart(config, out, args.episodes or EPISODES)
    print(_summary(out))


def quickstart(config: TrainConfig, out: Path, episodes: int) -> None:
    """Run or go on with every stage. Raises `ValueError` if `out` holds a run with other settings or a finished one."""
    run = Run(out, {"train": yaml.safe_load(dump_config(config)), "episodes": episodes})
    run.stage("record", lambda: record_for(config, out))
    run.stage("convert", lambda: convert_demonstrations(config, out))
    run.stage("train", lambda: train(config, out, resume=True))
    run.stage("evaluate", lambda: _evaluate(config, out, episodes))
    started = time.perf_counter()
    _write_report_json(config, out, run)
    write_report(out)
    run.finish("report", time.perf_counter() - started)


class Run:
    """The folder of a run: what was asked for, and which stages are done."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.path = out / "run.json"
        self.stages: dict[str, float] = {}
        if not self.path.is_file():
            if out.is_dir() and any(out.iterdir()):
                raise ValueError(f"{out} is not empty and holds no run of this command: give another --out")
            write_json(self.path, {"settings": settings, "stages": {}})
        stored = json.loads(self.path.read_text(encoding="utf-8"))
        different = _differences(stored["settings"], settings)
        if different:
            raise ValueError(
                f"{out} holds a run with other settings ({', '.join(different)}): "
                "repeat its settings to go on with it, or give another --out"
            )
        if "report" in stored["stages"]:
            raise ValueError(f"{out} holds a finished run: open {out / 'report.html'}, or give another --out")
        self.settings = settings
        self.stages = stored["stages"]

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Do a stage unless it is done; its seconds over interruptions are not added up."""
        if name in self.stages:
            print(f"{name}: done before, {self.stages[name]:.0f} s")
            return
        started = time.perf_counter()
        work()
        self.finish(name, time.perf_counter() - started)

    def finish(self, name: str, seconds: float) -> None:
        self.stages[name] = round(seconds, 3)
        write_json(self.path, {"settings": self.settings, "stages": self.stages})
