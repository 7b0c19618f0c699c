#!/usr/bin/env python3
"""Data of mixed quality for `rdt bench offline`: a linear controller of Hopper-v5 on its way to an expert.

    .venv/bin/python benchmarks/offline_hopper.py [--folder runs/hopper_mixed]             from the repository's root
    rdt bench offline hopper-mixed=runs/hopper_mixed/data --env Hopper-v5 --episodes 5

Augmented random search (Mania et al. 2018, version 2, 8 directions of which 4 count) climbs to a return of 3100 in two
minutes of a core; gymnasium is all it takes. Controllers of its early, middle and late iterations then act with noise
on their actions. FOLDER/data/{early,middle,late}.hdf5 are D4RL files; what is there is not made again. Actors of
`rdt rl train` make such data by `rdt rl collect`, of any task.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from tqdm import tqdm

from data_pipeline.atomic import atomic_path
from data_pipeline.sources.transitions import write_d4rl
from rdt.alignment.actors import run_episodes, transition_of

TASK = "Hopper-v5"
DIRECTIONS, COUNTED = 8, 4
STEP_SIZE, EXPLORATION = 0.01, 0.025
MIN_VARIANCE = 1e-4  # of an observation
FIRST_SEED = 5000  # of the starts of collection, far from those of the search


@dataclass(frozen=True)
class Quality:
    """One file: who acts, how noisily, how often."""

    iterations: tuple[int, ...]  # of the search
    episodes: int  # of each
    noise: float  # standard deviation, on actions in [-1, 1]


QUALITIES = {
    "early": Quality((40, 60), 24, 0.2),
    "middle": Quality((80, 100, 120), 8, 0.2),
    "late": Quality((180,), 6, 0.1),
}


@dataclass(frozen=True, eq=False)
class Linear:
    """clip(W (s - mean) / std), and its noise."""

    weights: np.ndarray  # (action, observation)
    mean: np.ndarray  # (observation,)
    std: np.ndarray
    noise: float = 0.0

    def __call__(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        actions = ((observations - self.mean) / self.std) @ self.weights.T
        if self.noise:
            actions = actions + self.noise * np.stack([g.normal(size=actions.shape[1]) for g in generators])
        return np.clip(actions, -1, 1).astype(np.float32)


def search(iterations: int, seed: int = 1) -> Iterator[tuple[int, Linear]]:
    """After each iteration the controller, with the statistics of all that was seen until then."""
    env, rng = gymnasium.make(TASK), np.random.default_rng(seed)
    shape = env.action_space.shape[0], env.observation_space.shape[0]
    weights, seen, tried = np.zeros(shape), Seen(shape[1]), 0
    for iteration in range(1, iterations + 1):
        directions = rng.normal(size=(DIRECTIONS, *shape))
        earned = np.zeros((DIRECTIONS, 2))
        for number, direction in enumerate(directions):
            for side, sign in enumerate((1, -1)):
                tried += 1
                controller = Linear(weights + sign * EXPLORATION * direction, seen.mean.copy(), seen.std)
                rollout = run_episodes(controller, [env], [tried])[0]
                earned[number, side] = rollout.total - len(rollout)  # without the reward for being alive
                seen.add(rollout.observations)
        best = np.argsort(-earned.max(axis=1))[:COUNTED]
        climbs = (earned[best, 0] - earned[best, 1])[:, None, None] * directions[best]
        weights = weights + STEP_SIZE / (COUNTED * (earned[best].std() + 1e-6)) * climbs.sum(axis=0)
        yield iteration, Linear(weights, seen.mean.copy(), seen.std)
    env.close()


class Seen:
    """Running mean and deviation of observations."""

    def __init__(self, width: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(width), np.zeros(width)

    def add(self, observations: np.ndarray) -> None:
        """(step, observation)"""
        count, mean = len(observations), observations.mean(axis=0, dtype=np.float64)
        apart, total = mean - self.mean, self.count + len(observations)
        self.squares += ((observations - mean) ** 2).sum(axis=0) + apart**2 * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.count = total

    @property
    def std(self) -> np.ndarray:
        if not self.count:
            return np.ones_like(self.mean)
        return np.sqrt(np.maximum(self.squares / self.count, MIN_VARIANCE))


def kept_controllers(file: Path) -> dict[int, Linear]:
    """By iteration, those that act; searched for where the file is not there."""
    wanted = sorted({iteration for quality in QUALITIES.values() for iteration in quality.iterations})
    if not file.exists():
        found = tqdm(search(wanted[-1]), total=wanted[-1], desc="search", unit="iteration")
        kept = {iteration: controller for iteration, controller in found if iteration in wanted}
        rows = {str(i): np.vstack([c.weights, c.mean, c.std]) for i, c in kept.items()}
        with atomic_path(file) as temporary:
            np.savez(temporary, **rows)
    with np.load(file) as rows:
        return {i: Linear(rows[str(i)][:-2], rows[str(i)][-2], rows[str(i)][-1]) for i in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/hopper_mixed"))
    folder = parser.parse_args().folder
    (folder / "data").mkdir(parents=True, exist_ok=True)
    controllers = kept_controllers(folder / "controllers.npz")
    for name, quality in QUALITIES.items():
        file = folder / "data" / f"{name}.hdf5"
        if file.exists():
            continue
        envs = [gymnasium.make(TASK) for _ in range(quality.episodes)]
        rollouts = []
        for iteration in quality.iterations:
            one = controllers[iteration]
            first = FIRST_SEED + 100 * iteration
            seeds = range(first, first + quality.episodes)
            rollouts += run_episodes(Linear(one.weights, one.mean, one.std, quality.noise), envs, seeds)
        returns = [rollout.total for rollout in rollouts]
        write_d4rl(file, transition_of(rollouts, f"hopper-{name}"), {"task": TASK})
        print(f"{file}: {len(returns)} episodes, return {min(returns):.0f} to {max(returns):.0f}")


if __name__ == "__main__":
    main()
