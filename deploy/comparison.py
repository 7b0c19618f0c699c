"""Two policies on one robot, compared by pairs of trials in the same scenes by a person who does not know which acts.

In each pair the order is drawn at random; a seed gives the draws again. Until all trials are judged nothing says which
policy acted when, so that a wish cannot judge. What the operator page shows of the inference (its latency, errors of a
server) may betray a policy: whoever judges does not look at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.intervals import paired_difference_interval
from deploy.trials import Orders, Rate, Trial, TrialRunner


@dataclass(frozen=True)
class Comparison:
    """The trials of both policies; pair k is `trials[0][k]` and `trials[1][k]`, in the same scene."""

    policies: tuple[str, str]  # checkpoint folders or addresses
    order_seed: int
    trials: tuple[list[Trial], list[Trial]]

    @property
    def difference(self) -> float:
        """Success rate of the second policy minus that of the first."""
        first, second = (np.mean([trial.success for trial in trials]) for trials in self.trials)
        return float(second - first)

    @property
    def difference_interval(self) -> tuple[float, float]:
        """95 %, paired by scenes."""
        first, second = ([trial.success for trial in trials] for trials in self.trials)
        return paired_difference_interval(first, second)

    def summary(self) -> str:
        """Rates, their difference, and at last which was which."""
        low, high = self.difference_interval
        points = f"{100 * self.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        lines = [f"policy {name}: {Rate.of(trials)}" for name, trials in zip("AB", self.trials, strict=True)]
        lines.append(f"B - A: {points}, of {len(self.trials[0])} pairs")
        for name, policy, trials in zip("AB", self.policies, self.trials, strict=True):
            lines.append(f"{name} was {policy}, in trials {', '.join(str(trial.number) for trial in trials)}")
        return "\n".join(lines)

    def report(self) -> dict[str, Any]:
        """Plain types, for a file."""
        rows = [
            {**trial.to_dict(), "pair": pair + 1, "policy": policy}
            for policy, trials in zip(self.policies, self.trials, strict=True)
            for pair, trial in enumerate(trials)
        ]
        return {
            "policies": [
                {"policy": policy, **Rate.of(trials).to_dict()}
                for policy, trials in zip(self.policies, self.trials, strict=True)
            ],
            "difference": self.difference,
            "difference_interval_95": list(self.difference_interval),
            "order_seed": self.order_seed,
            "trials": sorted(rows, key=lambda row: row["number"]),
        }


def drawn_orders(pairs: int, seed: int) -> list[tuple[int, int]]:
    """Which policy acts first and which second, 0 and 1 or 1 and 0, in each pair: even chances, pair by pair."""
    return [(int(first), 1 - int(first)) for first in np.random.default_rng(seed).integers(2, size=pairs)]


def compare(
    orders: Orders, policies: Sequence[str], pairs: int, seconds: float, order_seed: int, **options: Any
) -> Comparison:
    """So many pairs of trials of two policies; `options` are those of `TrialRunner`."""
    first, second = policies
    runner = TrialRunner(orders, 2 * pairs, seconds, **options)
    trials: tuple[list[Trial], list[Trial]] = ([], [])
    for pair, order in enumerate(drawn_orders(pairs, order_seed)):
        for place, number in enumerate(order):
            (orders.same_scene if place else orders.next_scene)()
            orders.choose(number)
            then = "" if place else "Put the scene back as it was before you answer. "
            trials[number].append(runner.run(2 * pair + place + 1, then))
    return Comparison((first, second), order_seed, trials)
