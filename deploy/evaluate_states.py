"""`rdt eval` of a policy of states: episodes of a control task, a normalised score, and how fast it acts.

Episodes run side by side as one batch, one seed each (spec alignment.md 0.6: `seed + 1001 + i`). Speed is that of one
state at a time, as a controller asks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.atomic import write_json
from deploy.control_tasks import References, make_environment, references_of
from deploy.device import choose_device
from deploy.intervals import mean_interval
from rdt.alignment.actors import run_episodes
from rdt.alignment.state_policy import StatePolicy, load_state_policy

FIRST_SEED = 1001
SPEED_CALLS, SPEED_WARM_UP = 50, 5


def command(args: argparse.Namespace) -> None:
    policy = load_state_policy(args.checkpoint)
    out = Path(args.out)
    if (out / "report.json").exists():
        raise ValueError(f"{out} holds a report already: give another --out")
    data = policy.config.made_of.get("data")
    references = references_of(args.env, data if data and Path(data).exists() else None)
    report = evaluate_states(policy, args.env, args.episodes, args.seed, references, args.device)
    report |= {"checkpoint": str(args.checkpoint), "milliseconds": milliseconds_of(policy)}
    write_json(out / "report.json", report)
    low, high = report["interval_95"]
    print(
        f"{args.env}: score {report['score']:.1f} [{low:.1f}, {high:.1f}] in {args.episodes} episodes (return "
        f"{report['return']:.1f}; 0 and 100 are {references.random:.1f} and {references.expert:.1f} of "
        f"{references.source}); {report['milliseconds']:.3f} ms an action"
    )
    print(out / "report.json")


def evaluate_states(
    policy: StatePolicy,
    environment: str,
    episodes: int,
    seed: int,
    references: References,
    device: str = "cpu",
) -> dict[str, Any]:
    """Plain types, for a file."""
    where = choose_device(device)
    generator = torch.Generator(where).manual_seed(seed)
    make = make_environment(environment)
    envs = [make() for _ in range(episodes)]
    try:
        act = policy.to(where).actor(generator)
        rollouts = run_episodes(act, envs, range(seed + FIRST_SEED, seed + FIRST_SEED + episodes))
    finally:
        policy.to("cpu")
        for env in envs:
            env.close()
    scores = [references.score(rollout.total) for rollout in rollouts]
    return {
        "score": float(np.mean(scores)),
        "interval_95": list(mean_interval(scores)),
        "scores": scores,
        "return": float(np.mean([rollout.total for rollout in rollouts])),
        "steps": float(np.mean([len(rollout) for rollout in rollouts])),
        "references": {"random": references.random, "expert": references.expert, "source": references.source},
        "environment": environment,
        "seed": seed,
    }


def milliseconds_of(policy: StatePolicy, calls: int = SPEED_CALLS) -> float:
    """Median of one action from one state on a CPU; warm-up calls are not counted."""
    generator = torch.Generator().manual_seed(0)
    state = torch.zeros(1, policy.config.state_dim)
    times = []
    for _ in range(SPEED_WARM_UP + calls):
        started = time.perf_counter()
        policy.act(state, generator)
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times[SPEED_WARM_UP:]))
