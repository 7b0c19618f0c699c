#!/usr/bin/env python3
"""Data of mixed quality for `rdt bench offline`: a linear controller of a MuJoCo task on its way to an expert.

    .venv/bin/python benchmarks/offline_mixed.py [--task HalfCheetah-v5] [--folder runs/cheetah_mixed]     from the root
    rdt bench offline halfcheetah-mixed=runs/cheetah_mixed/data --env HalfCheetah-v5 --episodes 5

Augmented random search (Mania et al. 2018, version 2, 8 directions of which 4 count) learns a gait in minutes of a
core; gymnasium is all it takes. Controllers of its early, middle and late iterations then act with noise on their
actions. FOLDER/data/{early,middle,late}.hdf5 are D4RL files; what is there is not made again. Actors of
`rdt rl train` make such data by `rdt rl collect`, of any task.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np
from tqdm import tqdm

from data_pipeline.atomic import atomic_path
from data_pipeline.sources.transitions import write_d4rl
from rdt.alignment.actors import run_episodes, transition_of

DIRECTIONS, COUNTED = 8, 4
MIN_VARIANCE = 1e-4  # of an observation
REFERENCE_EPISODES = 5
FIRST_SEED = 5000  # of the starts of collection, far from those of the search


@dataclass(frozen=True)
class Quality:
    """One file: who acts, how noisily, how often."""

    iterations: tuple[int, ...]  # of the search
    episodes: int  # of each
    noise: float  # standard deviation, on actions in [-1, 1]


@dataclass(frozen=True)
class Recipe:
    """How a task is searched, and who acts in which file."""

    step_size: float
    exploration: float
    alive: float  # reward of each step for not having fallen, which the search leaves out
    qualities: dict[str, Quality]


RECIPES = {
    "Hopper-v5": Recipe(
        0.01,
        0.025,
        1.0,
        {
            "early": Quality((40, 60), 24, 0.2),
            "middle": Quality((80, 100, 120), 8, 0.2),
            "late": Quality((180,), 6, 0.1),
        },
    ),
    "HalfCheetah-v5": Recipe(
        0.02,
        0.03,
        0.0,
        {
            "early": Quality((20, 40), 8, 0.1),
            "middle": Quality((70, 90), 3, 0.05),
            "late": Quality((120,), 3, 0.05),
        },
    ),
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


def search(task: str, iterations: int, seed: int = 1) -> Iterator[tuple[int, Linear, float]]:
    """After each iteration the controller, with the statistics of all that was seen until then, and its tries' mean."""
    recipe, env, rng = RECIPES[task], gymnasium.make(task), np.random.default_rng(seed)
    shape = env.action_space.shape[0], env.observation_space.shape[0]
    weights, seen, tried = np.zeros(shape), Seen(shape[1]), 0
    for iteration in range(1, iterations + 1):
        directions = rng.normal(size=(DIRECTIONS, *shape))
        earned = np.zeros((DIRECTIONS, 2))
        for number, direction in enumerate(directions):
            for side, sign in enumerate((1, -1)):
                tried += 1
                controller = Linear(weights + sign * recipe.exploration * direction, seen.mean.copy(), seen.std)
                rollout = run_episodes(controller, [env], [tried])[0]
                earned[number, side] = rollout.total - recipe.alive * len(rollout)
                seen.add(rollout.observations)
        best = np.argsort(-earned.max(axis=1))[:COUNTED]
        climbs = (earned[best, 0] - earned[best, 1])[:, None, None] * directions[best]
        weights = weights + recipe.step_size / (COUNTED * (earned[best].std() + 1e-6)) * climbs.sum(axis=0)
        yield iteration, Linear(weights, seen.mean.copy(), seen.std), float(earned.mean())
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


def kept_controllers(task: str, file: Path) -> dict[int, Linear]:
    """By iteration, those that act; searched for where the file is not there."""
    wanted = sorted({i for quality in RECIPES[task].qualities.values() for i in quality.iterations})
    if not file.exists():
        kept = {}
        with tqdm(search(task, wanted[-1]), total=wanted[-1], desc="search", unit="iteration") as found:
            for iteration, controller, earned in found:
                found.set_postfix_str(f"tries earn {earned:.0f}")
                if iteration in wanted:
                    kept[str(iteration)] = np.vstack([controller.weights, controller.mean, controller.std])
        with atomic_path(file) as temporary:
            np.savez(temporary, **kept)
    with np.load(file) as rows:
        return {i: Linear(rows[str(i)][:-2], rows[str(i)][-2], rows[str(i)][-1]) for i in wanted}


def reference_returns(task: str, expert: Linear) -> dict[str, float]:
    """What uniformly random actions earn, and the last controller without noise: scores 0 and 100."""
    envs = [gymnasium.make(task) for _ in range(REFERENCE_EPISODES)]
    low, high = envs[0].action_space.low, envs[0].action_space.high

    def random(observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        return np.stack([g.uniform(low, high) for g in generators]).astype(np.float32)

    found = {}
    for name, act in (("random_return", random), ("expert_return", expert)):
        rollouts = run_episodes(act, envs, range(REFERENCE_EPISODES))
        found[name] = float(np.mean([rollout.total for rollout in rollouts]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=RECIPES, default="HalfCheetah-v5")
    parser.add_argument("--folder", type=Path, default=Path("runs/cheetah_mixed"))
    args = parser.parse_args()
    data = args.folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    controllers = kept_controllers(args.task, args.folder / "controllers.npz")
    references = reference_returns(args.task, controllers[max(controllers)])
    print(", ".join(f"{name} {value:.1f}" for name, value in references.items()))
    for name, quality in RECIPES[args.task].qualities.items():
        file = data / f"{name}.hdf5"
        if file.exists():
            continue
        envs = [gymnasium.make(args.task) for _ in range(quality.episodes)]
        rollouts = []
        for iteration in quality.iterations:
            noisy = replace(controllers[iteration], noise=quality.noise)
            first = FIRST_SEED + 100 * iteration
            rollouts += run_episodes(noisy, envs, range(first, first + quality.episodes))
        returns = [rollout.total for rollout in rollouts]
        write_d4rl(file, transition_of(rollouts, name), {"task": args.task, **references})
        print(f"{file}: {len(returns)} episodes, return {min(returns):.0f} to {max(returns):.0f}")


if __name__ == "__main__":
    main()
