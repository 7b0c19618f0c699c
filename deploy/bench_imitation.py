"""`rdt bench imitation`: does the controller of C-GAIL help GAIL-DAC? The same seeds with and without it.

For each task an expert is trained once; every method then learns from a few of its episodes. A method and a seed are
one run with a file of its own, so a benchmark that was stopped goes on where it was. The one-step system, which shows
what the controller does without networks, is computed along the way.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.atomic import check_writable, write_bytes
from data_pipeline.schema.registry import find_config, read_yaml, unknown_name
from deploy.doctor import require
from deploy.imitation_runs import BASELINES, METHODS, Learner, prepare, record_of
from deploy.imitation_table import band_of, figures_of, lines_of_table, paired
from deploy.plots import Line, bands, lines
from rdt.alignment.imitation_config import ImitationConfig
from rdt.alignment.one_step_gail import OneStepGail, run
from rdt.train.config import config_as

ONE_STEP = {
    "GAIL": OneStepGail(),
    "controller, k = 1": OneStepGail(k=1),
    "controller, k = 4": OneStepGail(k=4),
    "from samples, k = 1": OneStepGail(k=1, sampled=True),
    "from samples, k = 10": OneStepGail(k=10, sampled=True),
    "GAIL, entropy 0.1": OneStepGail(entropy=0.1),
    "controller, k = 4, entropy 0.1": OneStepGail(k=4, entropy=0.1),
    "the same with u2": OneStepGail(k=4, entropy=0.1, policy_controller=True),
}
DRAWN = ("GAIL", "controller, k = 1", "from samples, k = 1", "from samples, k = 10")
COARSE = 0.2  # the Euler step of the picture
STEPS = (0.005, 0.05, COARSE)


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print a table a task; returns the figures."""
    for method in args.methods:
        if method not in METHODS:
            raise ValueError(unknown_name("method", method, METHODS))
    require("adversarial imitation", {"tianshou": "tianshou", "gymnasium": "gymnasium", "mujoco": "mujoco"}, "rl")
    require("a picture", {"matplotlib": "matplotlib"})
    out = Path(args.out)
    check_writable(out)
    learners = [Learner(method, k) for method in args.methods for k in (args.k if method in BASELINES else (0.0,))]
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    figures: dict[str, Any] = {"one step": _one_step(out), "tasks": {}}
    for name in args.tasks:
        path = find_config("imitation", name)
        config = config_as(ImitationConfig, read_yaml(path), where=str(path))
        figures["tasks"][config.task] = _task(config, learners, seeds, out / config.task)
    return figures


def _one_step(out: Path) -> dict[str, Any]:
    rows = {}
    print(f"one step {'':24s}max Re(eig)  residual   TV at the end: h = " + " / ".join(map(str, STEPS)))
    for name, system in ONE_STEP.items():
        runs = [run(system, step) for step in STEPS]
        apart = [float(r.apart[-1]) for r in runs]
        row = {"slowest": system.slowest, "residual": system.residual, "apart": apart}
        settled = [r.settled_at(0.02) for r in runs]
        rows[name] = row | {"settled": [time if math.isfinite(time) else None for time in settled]}
        ends = " / ".join(f"{value:.4f}" for value in apart)
        print(f"{name:33s}{system.slowest:11.3f}  {system.residual:8.3f}   {ends}")
    drawn = []
    for name in DRAWN:
        trajectory = run(ONE_STEP[name], COARSE, until=20.0)
        drawn.append(Line(name, trajectory.times.tolist(), trajectory.apart.tolist()))
    _draw(out / "one_step.png", lines(drawn, "time", "total variation from the expert"))
    return rows


def _task(config: ImitationConfig, learners: Sequence[Learner], seeds: range, out: Path) -> dict[str, Any]:
    shown = prepare(config, out)
    records: dict[Learner, list[Any]] = {learner: [] for learner in learners}
    for seed in seeds:  # outside, so that a benchmark that was stopped has whole pairs
        for learner in learners:
            records[learner].append(record_of(config, shown, learner, seed, out))
    columns = {learner.name: figures_of(of) for learner, of in records.items()}
    differences = _differences(learners, columns)
    print(
        f"\n{config.task}: {len(seeds)} seeds; return of the expert {shown.of_expert:.1f}, of chance "
        f"{shown.of_random:.1f}; SW1 of the expert from itself {shown.floor:.3f}"
    )
    print("\n".join(lines_of_table(columns, differences)))
    print(
        "mean [95 % bootstrap interval] over seeds; * that of five paired differences or more leaves zero out\n",
        flush=True,
    )
    curves = [band_of(name_of(learner), of) for learner, of in records.items() if len(of[0]["curve"]) > 1]
    if curves:
        _draw(out / "curves.png", bands(curves, "gradient steps", "return: 0 random, 1 expert"))
    scale = {"expert": shown.of_expert, "random": shown.of_random, "floor": shown.floor}
    return {"seeds": list(seeds), **scale, "methods": columns, "differences": differences}


def _differences(learners: Sequence[Learner], columns: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{learner.name} - {baseline}": paired(columns[learner.name], columns[baseline])
        for learner in learners
        if (baseline := BASELINES.get(learner.method, "")) in columns
    }


def name_of(learner: Learner) -> str:
    """For people."""
    return METHODS[learner.method] + (f", k = {learner.k:g}" if learner.method in BASELINES else "")


def _draw(path: Path, picture: bytes) -> None:
    write_bytes(path, picture)
    print(f"picture {path}")
