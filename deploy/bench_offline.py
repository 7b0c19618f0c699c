"""`rdt bench offline`: methods x seeds on data sets of transitions, tried in their tasks.

    OUT/TASK/shared/seed0/        behaviours, their actions in the data's states, critics: one for equal settings
    OUT/TASK/METHOD/seed0/        the method's own stage, checkpoint/, result.json
    OUT/TASK.png                  the scores

Whatever has a result is left alone, so an interrupted bench goes on where it was. In the table stand the data's own
mean score, each method's over the episodes of all seeds, its difference to behaviour cloning over seeds, and
milliseconds an action of all methods, measured one after the other at the end.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline.atomic import read_json, write_bytes, write_json
from data_pipeline.schema.registry import find_config, unknown_name
from data_pipeline.sources.transitions import read_transitions
from deploy.control_tasks import DATA_ENVIRONMENTS, References, make_environment, references_of
from deploy.evaluate_states import SPEED_CALLS, evaluate_states, milliseconds_of
from deploy.intervals import mean_interval
from deploy.offline import read_data, run_offline, shared_stages
from deploy.offline_config import OfflineConfig, load_offline
from deploy.train import CHECKPOINT
from rdt.alignment.offline_data import OfflineData
from rdt.alignment.state_policy import load_state_policy

METHODS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "bc": ("BC", "bc", ()),
    "diffusion_bc": ("diffusion BC", "diffusion_bc", ()),
    "iql": ("IQL", "iql", ()),
    "sfbc": ("SfBC", "sfbc", ()),
    "qgpo": ("QGPO (CEP)", "qgpo", ()),
    "eda": ("EDA", "eda", ()),
    "eda_1": ("EDA, 1 % of the labels", "eda", ("--label_fraction", "0.01")),
    "srpo": ("SRPO", "srpo", ()),
}
"""Word of `--methods` -> (row of the table, config, overrides)."""

BASELINE, DIFFUSION, STUDENT = "bc", "diffusion_bc", "srpo"
QUICK = ("critic", "behaviour", "policy")
QUICK_STEPS, QUICK_EPISODES = 3, 2
SPEED_ROUNDS = 3  # of which the fastest counts


@dataclass(frozen=True)
class Task:
    """A data set and where it is tried."""

    name: str
    data: str
    environment: str
    references: References


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Train and try what has no result yet, print the tables, draw the pictures; returns all figures."""
    methods = args.methods or tuple(METHODS)
    for method in methods:
        if method not in METHODS:
            raise ValueError(unknown_name("method", method, METHODS))
    seeds = 1 if args.quick else args.seeds
    tasks = [task_of(word, args.env) for word in args.data]
    for task in tasks:
        make_environment(task.environment)  # what is missing fails here, not after hours
    figures = {}
    with tqdm(total=len(tasks) * seeds * len(methods), desc="offline", unit="run", dynamic_ncols=True) as bar:
        for task in tasks:
            results: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
            for seed in range(seeds):
                loaded: dict[str, OfflineData] = {}  # by how it is scaled
                for method in methods:
                    bar.set_postfix_str(f"{task.name}, {method}, seed {seed}")
                    results[method].append(_result(args, task, method, seed, loaded))
                    bar.update()
            figures[task.name] = _report(args, task, results)
    return figures


def task_of(word: str, environment: str | None) -> Task:
    """`DATA` or `NAME=DATA`; D4RL's file hopper_medium-v2.hdf5 is hopper-medium-v2."""
    name, _, data = word.rpartition("=")
    name = name or Path(data).stem.replace("_", "-")
    family = name.lower().split("-")[0]
    if environment is None and family not in DATA_ENVIRONMENTS:
        raise ValueError(f"{name}: where are its policies tried? Give --env, a Gymnasium id like Hopper-v5")
    environment = environment or DATA_ENVIRONMENTS[family]
    return Task(name, data, environment, _references(name, environment, data))


def _references(name: str, environment: str, data: str) -> References:
    """By the data's own, by the task's name, or by the environment's."""
    try:
        return references_of(name, data)
    except ValueError:
        return references_of(environment)


def config_of(args: argparse.Namespace, task: Task, method: str, seed: int) -> OfflineConfig:
    """The method's shipped config for this cell, its shared stages beside it."""
    root = Path(args.out) / task.name
    _, name, overrides = METHODS[method]
    words = {"data": task.data, "task": task.name, "environment": task.environment, "budget": args.budget}
    words |= {"seed": seed, "device": args.device, "out": root / method / f"seed{seed}"}
    options = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    if args.quick:
        options += [word for stage in QUICK for word in (f"--{stage}.train.steps", str(QUICK_STEPS))]
    config = load_offline(find_config("align/offline", name), [*options, *overrides])
    shared = root / "shared" / f"seed{seed}"
    places = {stage: str(shared / f"{stage}_{_digest(what)}") for stage, what in shared_stages(config).items()}
    return replace(
        config,
        behaviour=replace(config.behaviour, out=places["behaviour"]),
        support=replace(config.support, out=places["support"]),
        critic=replace(config.critic, out=places["critic"]),
    )


def _digest(settings: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(settings, sort_keys=True).encode()):08x}"


def _result(
    args: argparse.Namespace, task: Task, method: str, seed: int, loaded: dict[str, OfflineData]
) -> dict[str, Any]:
    """Of one cell: read where it is there, else trained and tried."""
    config = config_of(args, task, method, seed)
    file = Path(config.out) / "result.json"
    if file.exists():
        return read_json(file, "remove it to try the policy again")
    started = time.process_time()
    key = repr((config.reward_scaling, config.scale_states))
    if key not in loaded:
        loaded[key] = read_data(config)
    policy = run_offline(config, loaded[key])
    trained = time.process_time()
    episodes = QUICK_EPISODES if args.quick else args.episodes
    result = evaluate_states(policy, task.environment, episodes, seed, task.references, args.device)
    # shared stages count where they were trained first
    result |= {"train_cpu_seconds": trained - started, "trial_cpu_seconds": time.process_time() - trained}
    write_json(file, result)
    return result


def _report(args: argparse.Namespace, task: Task, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    transition = read_transitions(task.data).transition
    returns = transition.episode_returns()
    own = [task.references.score(earned) for earned in returns]
    data = {"score": float(np.mean(own)), "interval_95": list(mean_interval(own)), "best": max(own)}
    data |= {"rows": transition.num_rows, "episodes": len(returns)}
    baseline = [result["score"] for result in results.get(BASELINE, [])]
    speeds = _speeds(args, task, list(results))
    rows = {}
    for method, found in results.items():
        scores = [score for result in found for score in result["scores"]]
        seeds = [result["score"] for result in found]
        gains = [ours - theirs for ours, theirs in zip(seeds, baseline, strict=True)] if baseline else []
        rows[method] = {
            "score": float(np.mean(scores)),
            "interval_95": list(mean_interval(scores)),
            "seeds": seeds,
            "gain": float(np.mean(gains)) if gains else None,
            "gain_interval_95": list(mean_interval(gains)) if gains else None,
            "milliseconds": speeds[method],
            "train_cpu_seconds": [result["train_cpu_seconds"] for result in found],
        }
    _print(task, data, rows)
    figures = {"data": data, "rows": rows, "environment": task.environment, "budget": args.budget}
    figures["references"] = {"random": task.references.random, "expert": task.references.expert}
    figures |= _ratios(rows)
    for name, value in _ratios(rows).items():
        print(f"{name}: {value:.2f}")
    _draw(Path(args.out) / f"{task.name}.png", data, rows)
    return figures


def _speeds(args: argparse.Namespace, task: Task, methods: Sequence[str]) -> dict[str, float]:
    """Milliseconds an action on a CPU, all methods in turn, several times."""
    policies = {
        method: load_state_policy(Path(config_of(args, task, method, 0).out) / CHECKPOINT) for method in methods
    }
    calls, rounds = (1, 1) if args.quick else (SPEED_CALLS, SPEED_ROUNDS)
    found = [{method: milliseconds_of(policy, calls) for method, policy in policies.items()} for _ in range(rounds)]
    return {method: min(one[method] for one in found) for method in methods}


def _ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The two comparisons that have targets."""
    found = {}
    if STUDENT in rows and DIFFUSION in rows:
        ratio = rows[DIFFUSION]["milliseconds"] / rows[STUDENT]["milliseconds"]
        found["SRPO acts faster than the diffusion policy by a factor of"] = ratio
    if "eda_1" in rows and "eda" in rows and rows["eda"]["score"] > 0:
        found["EDA's score with 1 % of the labels, as a share of that with all"] = (
            rows["eda_1"]["score"] / rows["eda"]["score"]
        )
    return found


def _print(task: Task, data: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    references = task.references
    print(
        f"\n{task.name} in {task.environment}: {data['rows']} rows of {data['episodes']} episodes; score 0 and 100 are "
        f"returns of {references.random:.1f} and {references.expert:.1f} ({references.source})"
    )
    print(f"{'':24s}  score [95 % of episodes]   over BC [95 % of seeds]   ms/action   seeds")
    low, high = data["interval_95"]
    print(f"{'the data':24s} {data['score']:6.1f} [{low:6.1f}, {high:6.1f}]")
    for method, row in rows.items():
        (low, high), gain = row["interval_95"], " " * 24
        if row["gain"] is not None and method != BASELINE:
            gain = f"{row['gain']:+6.1f} [{row['gain_interval_95'][0]:+6.1f}, {row['gain_interval_95'][1]:+6.1f}]"
        print(
            f"{METHODS[method][0]:24s} {row['score']:6.1f} [{low:6.1f}, {high:6.1f}]   {gain:24s} "
            f"{row['milliseconds']:10.3f}   {' '.join(f'{score:.1f}' for score in row['seeds'])}"
        )


def _draw(file: Path, data: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    from deploy.plots import Measured, intervals

    drawn = [Measured("the data", data["score"], tuple(data["interval_95"]))]
    drawn += [
        Measured(METHODS[method][0], row["score"], tuple(row["interval_95"]), row["seeds"])
        for method, row in rows.items()
    ]
    write_bytes(file, intervals(drawn, "normalised score", rows[BASELINE]["score"] if BASELINE in rows else None))
    print(f"picture: {file}")
