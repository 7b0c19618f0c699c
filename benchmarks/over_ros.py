#!/usr/bin/env python3
"""What the road over ROS 2 costs a policy: the same scenes in lockstep and over real topics at the clock's pace.

    .venv/bin/python benchmarks/over_ros.py CHECKPOINT [--env sim_handover] [--trials 100] [--json FILE]

`rdt run` takes 11 s a trial and wants the machine for itself: beside other work it measures that work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from data_pipeline.atomic import write_json
from deploy.evaluate import Settings, run_in_workers
from deploy.intervals import paired_difference_interval, wilson_interval
from deploy.rollout import Trial
from robot_drivers.sim.tasks import ENVIRONMENTS, EVALUATION_SEED, TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--env", default="sim_handover", choices=sorted(ENVIRONMENTS))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=9.0)
    parser.add_argument("--json", help="write both lists of successes there")
    args = parser.parse_args()
    lockstep = in_lockstep(args.checkpoint, args.env, args.trials)
    over_ros = over_topics(args.checkpoint, args.env, args.trials, args.seconds)
    for name, successes in (("lockstep", lockstep), ("over ROS 2", over_ros)):
        low, high = wilson_interval(sum(successes), len(successes))
        print(f"{name:10s} {sum(successes)} of {len(successes)} [{low:.1%}, {high:.1%}]")
    low, high = paired_difference_interval(lockstep, over_ros)
    difference = 100 * (sum(over_ros) - sum(lockstep)) / len(lockstep)
    print(f"difference {difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]")
    if args.json:
        write_json(args.json, {"lockstep": lockstep, "over_ros": over_ros})


def in_lockstep(checkpoint: Path, env: str, count: int) -> list[bool]:
    """Physics and network in turn, nothing late; strict success by scene."""
    task = TASKS[ENVIRONMENTS[env].tasks[0]]
    scenes = range(EVALUATION_SEED, EVALUATION_SEED + count)
    trials = [Trial(env, task.name, task.instructions[0], "trained", scene) for scene in scenes]
    return [outcome.success for outcome in run_in_workers(checkpoint, Settings(env, count, 0), trials)]


def over_topics(checkpoint: Path, env: str, count: int, seconds: float) -> list[bool]:
    """The same with `rdt run`: two nodes, real topics, real time."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "trials.json"
        words = ["run", "sim_bimanual", str(checkpoint), "--env", env, "--no-page"]
        words += ["--trials", str(count), "--seconds", str(seconds), "--json", str(out)]
        subprocess.run([sys.executable, "-m", "deploy.cli", *words], check=True)
        trials = json.loads(out.read_text())["trials"]
    scenes = [trial["scene"] for trial in trials]
    assert scenes == list(range(EVALUATION_SEED, EVALUATION_SEED + count)), f"other scenes: {scenes}"
    return [trial["success"] for trial in trials]


if __name__ == "__main__":
    main()
