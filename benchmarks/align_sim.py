#!/usr/bin/env python3
"""What alignment makes of a policy of middling success: every method from the same rollouts, several seeds.

    .venv/bin/python benchmarks/align_sim.py [--methods sfbc nca ...] [--seeds 3] [--episodes 100] [--folder runs/align]

The start and its rollouts are made once. Each method is trained with each seed (its critic too) and tried in the same
unseen scenes as the start, with the same sampling noise: differences are paired by scene. What is done is not done
again, so a run that was interrupted goes on. On two CPU cores three to five minutes a method and seed, eda and
srpo ten.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from data_pipeline.atomic import read_json, write_json
from data_pipeline.schema.registry import find_config
from deploy.align import align, load_align, trained_start
from deploy.evaluate import Settings, run_in_workers
from deploy.intervals import mean_interval, wilson_interval
from deploy.rollout import Trial
from robot_drivers.sim.tasks import ENVIRONMENTS, EVALUATION_SEED, TASKS

METHODS = ("sfbc", "cep", "eda", "nca", "srpo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("runs/align"))
    args = parser.parse_args()
    env = load_align(find_config("align", "nca_sim")).rollouts.environment
    start = trained_start(load_align(find_config("align", "nca_sim")))
    before = successes(start, env, args.episodes, args.folder / "bench" / "start.json")
    low, high = wilson_interval(sum(before), len(before))
    print(f"{'start':6s} {sum(before)} of {len(before)} [{low:.1%}, {high:.1%}]")
    for method in args.methods:
        after = [aligned(method, seed, env, args) for seed in range(args.seeds)]
        print(row(method, before, after), flush=True)


def aligned(method: str, seed: int, env: str, args: argparse.Namespace) -> list[bool]:
    """Success by scene after a method has been trained with a seed."""
    config = load_align(find_config("align", f"{method}_sim"))
    critic = replace(config.critic, out=str(args.folder / "bench" / f"critic_{seed}"))
    out = args.folder / "bench" / f"{method}_{seed}"
    align(replace(config, seed=seed, out=str(out), critic=critic))
    return successes(out / "checkpoint", env, args.episodes, out.with_suffix(".json"))


def successes(checkpoint: Path, env: str, count: int, file: Path) -> list[bool]:
    """Strict success by scene, from the file where it is known."""
    if file.exists():
        known = read_json(file, "remove it to measure anew")["success"]
        if len(known) == count:
            return known
    task = TASKS[ENVIRONMENTS[env].tasks[0]]
    sentences = task.instructions
    trials = [
        Trial(env, task.name, sentences[i % len(sentences)], "trained", EVALUATION_SEED + i) for i in range(count)
    ]
    found = [outcome.success for outcome in run_in_workers(checkpoint, Settings(env, count, 0), trials)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"success": found})
    return found


def row(method: str, before: list[bool], after: list[list[bool]]) -> str:
    """Success of all seeds together, and the difference to the start: over seeds, and over scenes.

    The start was tried once: of a scene the difference is that of the seeds' mean, so its one try counts once.
    """
    pooled = [success for seed in after for success in seed]
    low, high = wilson_interval(sum(pooled), len(pooled))
    rates = ", ".join(f"{100 * sum(seed) / len(seed):.0f}" for seed in after)
    by_seed = [100 * (sum(seed) - sum(before)) / len(before) for seed in after]
    by_scene = [100 * (statistics.mean(ours) - theirs) for *ours, theirs in zip(*after, before, strict=True)]
    text = f"{method:6s} {sum(pooled)} of {len(pooled)} [{low:.1%}, {high:.1%}] ({rates}); "
    text += f"{statistics.mean(by_seed):+.1f} points"
    for what, values in (("scenes", by_scene), ("seeds", by_seed)):
        if len(values) > 1:
            low, high = mean_interval(values)
            text += f", [{low:+.1f}, {high:+.1f}] over {what}"
    return text


if __name__ == "__main__":
    main()
