"""What training looks at on the way and takes the robot's side for: predictions drawn beside recorded actions, trials.

OUT/plots/EPISODE_STEP.png     a held-out episode, each joint over time: recorded, and the chunks predicted along it
OUT/evaluated/                 the weights under trial, while the trials run
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import write_bytes
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import Episode
from data_pipeline.selection import EpisodeSelection
from deploy.device import choose_device
from deploy.engine import InferenceEngine
from deploy.evaluate import Settings, make_trials, run_in_workers
from deploy.intervals import wilson_interval
from deploy.open_loop import open_loop
from deploy.plots import Chunk, action_panels
from deploy.rollout import Outcome
from rdt.train.best import SUCCESS
from rdt.train.checkpoint import Checkpoint, save_checkpoint
from rdt.train.config import TrainConfig
from rdt.train.lora import merged
from rdt.visuomotor import VisuomotorPolicy
from robot_drivers.sim.render import settle_backend
from robot_drivers.sim.tasks import ENVIRONMENTS, lookup

Measurement = Callable[[VisuomotorPolicy, int], dict[str, float]]

PLOTTED_EPISODES = 2
PLOTTED_CHUNKS = 8
"""At most so many predictions along an episode; in a short one they stand end to end."""

TRIAL_SEED = 10_000
"""Scenes of their own, which `rdt eval` does not see unless told to: a checkpoint may be chosen by these."""

GPU_WORKERS = 4
"""Processes that share a GPU with training; each takes half a gigabyte of it before it does anything."""


def open_loop_plots(episodes: Sequence[Episode], robot: Embodiment, config: TrainConfig, out: Path) -> Measurement:
    """Draws predictions along episodes of the robot, in rad and openings, whatever the robot's own units."""

    def plot(model: VisuomotorPolicy, step: int) -> dict[str, float]:
        # the weights as they are: training goes on with them
        dtype = next(model.policy.parameters()).dtype
        engine = InferenceEngine(
            Checkpoint(model, robot, config), model.device, config.seed, dtype=dtype, capture=False
        )
        for episode in episodes:
            every = max(engine.horizon, -(-episode.num_steps // PLOTTED_CHUNKS))
            record = open_loop(engine, episode, every)
            chunks = [Chunk(chunk["start"], _joints(robot, chunk["actions"])) for chunk in record["chunks"]]
            png = action_panels(record["names"], _joints(robot, record["demonstration"]), chunks, episode.rate_hz)
            name = "".join(letter if letter.isalnum() else "_" for letter in episode.name)
            write_bytes(out / "plots" / f"{name}_{step:07d}.png", png)
        return {}

    return plot


def plotted_episodes(held_out: Iterable[EpisodeSelection]) -> list[Episode]:
    """A few held-out episodes, of different tasks where there are some."""
    places = [(part, i, part.entry(i).instructions) for part in held_out for i in range(len(part))]
    first_of_task = list({instructions: (part, i) for part, i, instructions in reversed(places)}.values())[::-1]
    others = [(part, i) for part, i, _ in places if (part, i) not in first_of_task]
    return [part[i] for part, i in (first_of_task + others)[:PLOTTED_EPISODES]]


def closed_loop_success(robot: Embodiment, config: TrainConfig, statistics: dict[str, Any], out: Path) -> Measurement:
    """Runs trials of the embedded simulator in worker processes, which draw their pictures there.

    `success_rate`, `success_low` and `success_high` are of all tasks together, strict success in the phrasings of
    training, with its 95 % interval; `success/TASK` is that of one task.
    """
    environment = lookup(ENVIRONMENTS, config.demonstrations.environment)
    settings = Settings(environment.name, config.evaluate_episodes, TRIAL_SEED, config.device)
    trials = [
        replace(trial, video=None) for trial in make_trials(environment, settings, out) if trial.phrasing == "trained"
    ]

    def evaluate(model: VisuomotorPolicy, step: int) -> dict[str, float]:
        folder = out / "evaluated"
        settle_backend()
        workers = GPU_WORKERS if choose_device(config.device).type == "cuda" else None
        try:
            save_checkpoint(folder, merged(model) if config.lora.rank else model, robot, config, statistics)
            outcomes = run_in_workers(folder, settings, trials, workers, f"trials at step {step}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return success_figures(outcomes)

    return evaluate


def success_figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Strict success of all tasks together with Wilson's interval, and of each."""
    low, high = wilson_interval(sum(outcome.success for outcome in outcomes), len(outcomes))
    tasks: dict[str, list[bool]] = {}
    for outcome in outcomes:
        tasks.setdefault(outcome.trial.task, []).append(outcome.success)
    return {
        SUCCESS: float(np.mean([outcome.success for outcome in outcomes])),
        "success_low": low,
        "success_high": high,
        **{f"success/{task}": float(np.mean(done)) for task, done in tasks.items()},
    }


def _joints(robot: Embodiment, native: list) -> np.ndarray:
    """Native actions (steps, num_native) in unified units, in the same order."""
    return robot.to_unified(np.array(native), "action")[0][..., robot.slots]
