"""Runs of `rdt rl train` beside the figures that Tianshou publishes for its MuJoCo benchmark.

Its figure of a task and an algorithm is the highest average return over seeds at any evaluation of the first million
steps, with the standard deviation over seeds there (examples/mujoco/README.md; REINFORCE: ten million). It was taken in
Gym's v2 and v3 environments on MuJoCo 2.0, with ten seeds of ten episodes: an order of magnitude for today's v5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdt.alignment.rl_config import RLConfig

_ALGORITHMS = ("ddpg", "td3", "sac", "a2c", "ppo", "trpo", "npg", "reinforce")
_PUBLISHED = {  # mean over seeds, in the order of _ALGORITHMS
    "Ant": (990, 5116, 5850, 3485, 3258, 2867, 2358, 1108),
    "HalfCheetah": (11719, 10201, 12139, 1830, 5784, 4471, 3485, 1139),
    "Hopper": (2197, 3472, 3542, 1253, 2609, 2046, 1915, 416),
    "Walker2d": (1401, 3982, 5007, 1092, 3589, 3827, 2503, 441),
    "Swimmer": (144, 104, 44, 37, 67, 41, 32, 36),
    "Humanoid": (177, 5190, 5489, 1726, 787, 810, 765, 464),
    "Reacher": (-3.3, -2.7, -2.6, -6.7, -4.1, -5.1, -4.5, -5.5),
    "InvertedPendulum": (1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000),
    "InvertedDoublePendulum": (8364, 9349, 9360, 9258, 9231, 8435, 9243, 7726),
}


@dataclass(frozen=True)
class TableRow:
    """One task by one algorithm, all seeds of it that were trained equally long."""

    task: str
    algorithm: str
    seeds: tuple[int, ...]
    steps: tuple[int, ...]  # of the evaluations
    means: tuple[float, ...]  # over seeds, one an evaluation
    best: float  # the highest of them
    std: float  # over seeds, there
    published: float | None

    @property
    def label(self) -> str:
        return f"{self.algorithm} {self.task}"

    def __str__(self) -> str:
        beside = "none" if self.published is None else f"{self.published:g}"
        return (
            f"{self.task:26s} {self.algorithm:9s} {self.best:9.1f} +- {self.std:.1f} "
            f"({len(self.seeds)} seeds, {self.steps[-1]:,} steps); published {beside}"
        )


def published(task: str, algorithm: str) -> float | None:
    """Tianshou's figure, or none where it gives none; the version of a task does not matter."""
    figures = _PUBLISHED.get(task.rsplit("-v", 1)[0])
    return None if figures is None else float(figures[_ALGORITHMS.index(algorithm)])


def table(runs: Sequence[tuple[RLConfig, list[dict[str, Any]]]]) -> list[TableRow]:
    """Rows in the order of tasks and algorithms; runs of other lengths make rows of their own."""
    groups: dict[tuple[str, str, int], dict[int, list[dict[str, Any]]]] = defaultdict(dict)
    for config, evaluations in runs:
        groups[config.task, config.algorithm, config.steps][config.seed] = evaluations
    rows = []
    for (task, algorithm, _), by_seed in sorted(groups.items()):
        common = min(len(evaluations) for evaluations in by_seed.values())  # a run may be on its way
        means = np.array([[row["mean"] for row in evaluations[:common]] for evaluations in by_seed.values()])
        best = int(means.mean(axis=0).argmax())
        rows.append(
            TableRow(
                task,
                algorithm,
                tuple(sorted(by_seed)),
                tuple(row["steps"] for row in next(iter(by_seed.values()))[:common]),
                tuple(means.mean(axis=0).tolist()),
                float(means[:, best].mean()),
                float(means[:, best].std()),
                published(task, algorithm),
            )
        )
    return rows
