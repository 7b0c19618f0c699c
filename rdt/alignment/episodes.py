"""Whole episodes of a control task: what a policy of states earns there.

The environment comes in as a function that makes one, so nothing here knows where it is from. All are stepped as one
batch of states; one that has ended leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat

import numpy as np
import torch

from rdt.alignment.state_policy import StatePolicy


class ControlTask(Protocol):
    """Gymnasium's environment, as far as it is used."""

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: Any, /) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Played:
    """How one episode went."""

    seed: int
    earned: float  # undiscounted return, in the environment's rewards
    steps: int


def play(
    policy: StatePolicy,
    make: Callable[[], ControlTask],
    seeds: Sequence[int],
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda ended: None,
) -> list[Played]:
    """One episode a seed, side by side; `progress` hears of each that ends."""
    tasks = [make() for _ in seeds]
    try:
        states = [np.asarray(task.reset(seed=seed)[0], np.float32) for task, seed in zip(tasks, seeds, strict=True)]
        if states and states[0].shape != (policy.config.state_dim,):
            raise ValueError(
                f"the policy reads {policy.config.state_dim} numbers, the environment gives {states[0].shape}: it was "
                "trained for another task"
            )
        earned, steps, live = [0.0] * len(seeds), [0] * len(seeds), list(range(len(seeds)))
        while live:
            now = torch.from_numpy(np.stack([states[i] for i in live]))
            actions = policy.act(now.to(generator.device), generator).cpu().numpy()
            left = []
            for i, action in zip(live, actions, strict=True):
                state, reward, terminated, truncated, _ = tasks[i].step(action)
                states[i] = np.asarray(state, np.float32)
                earned[i] += float(reward)
                steps[i] += 1
                if terminated or truncated:
                    progress(1)
                else:
                    left.append(i)
            live = left
    finally:
        for task in tasks:
            task.close()
    return [Played(*row) for row in zip(seeds, earned, steps, strict=True)]
