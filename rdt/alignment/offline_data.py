"""Offline data of control tasks as tensors, and what carries them to the trainer.

    Transition (numpy, as read)  ->  OfflineData: scaled states, actions in [-1, 1], rewards in the papers' scale
    OfflineData x rows           ->  the batch that a stage's objective reads (Step, Demonstrations, Support, ...)
    StageModel, OnBatch          ->  any network and any objective of the family as the trainer wants them

Rows of a batch are a pure function of the seed and the step. States are left as they are unless asked for: the
published protocols scale rewards, not states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data_pipeline.schema.types import Transition
from rdt.alignment.objectives import Demonstrations, Step
from rdt.random import SampleGenerator, step_seed
from rdt.trainable import Trainable

RewardScaling = Literal["none", "locomotion", "antmaze"]
MIN_STATE_STD = 1e-3
"""States that vary less are not blown up to more than they are."""


@dataclass(frozen=True, eq=False)
class StateScaling:
    """(s - mean) / std, entry by entry."""

    mean: Float[Tensor, " state"]
    std: Float[Tensor, " state"]

    @classmethod
    def none(cls, state_dim: int) -> StateScaling:
        return cls(torch.zeros(state_dim), torch.ones(state_dim))

    @classmethod
    def of(cls, states: Float[Tensor, "row state"]) -> StateScaling:
        return cls(states.mean(dim=0), states.std(dim=0).clamp(min=MIN_STATE_STD))

    def __call__(self, states: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        return (states - self.mean) / self.std


@dataclass(frozen=True, eq=False)
class OfflineData:
    """All transitions of a data set."""

    states: Float[Tensor, "row state"]  # scaled
    actions: Float[Tensor, "row action"]  # in [-1, 1]
    rewards: Float[Tensor, " row"]  # scaled
    next_states: Float[Tensor, "row state"]
    terminals: Float[Tensor, " row"]  # 1 where nothing follows
    ends: Float[Tensor, " row"]  # 1 in the last row of a trajectory, time-outs too
    scaling: StateScaling
    action_limit: float  # what an action of 1 is to the environment

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def state_dim(self) -> int:
        return self.states.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    def demonstrations(self, rows: Tensor) -> Demonstrations:
        return Demonstrations(self.actions[rows], self.states[rows])

    def steps(self, rows: Tensor) -> Step:
        return Step(
            action=self.actions[rows],
            reward=self.rewards[rows],
            done=self.terminals[rows],
            cond=self.states[rows],
            next_cond=self.next_states[rows],
        )

    def visited(self) -> tuple[Float[Tensor, "place state"], Int[Tensor, " row"]]:
        """Every state once, those of the rows first, and where in it each row's next state stands.

        Most next states are the state of the row behind. A terminal row's is never read: it gets its own state.
        """
        behind = torch.arange(1, len(self) + 1)
        follows = torch.zeros(len(self), dtype=torch.bool)
        follows[:-1] = (self.next_states[:-1] == self.states[1:]).all(dim=1)
        ended = self.terminals > 0
        extra = ~follows & ~ended
        place = torch.where(ended, behind - 1, behind)
        place[extra] = len(self) + torch.arange(int(extra.sum()))
        return torch.cat([self.states, self.next_states[extra]]), place


def offline_data(
    transition: Transition,
    *,
    reward_scaling: RewardScaling = "none",
    scale_states: bool = False,
    action_limit: float = 1.0,
    clip: float = 1e-3,
) -> OfflineData:
    """Raises `ValueError` for actions beyond the limit by more than a rounding; the rest is clipped into it."""
    actions = torch.from_numpy(np.array(transition.actions)) / action_limit
    if (farthest := float(actions.abs().max()) * action_limit) > action_limit * (1 + clip):
        raise ValueError(
            f"{transition.name}: actions reach {farthest:g}, expected at most {action_limit:g}: set action_limit to "
            "the largest that the environment takes"
        )
    states, next_states = (
        torch.from_numpy(np.array(values)) for values in (transition.observations, transition.next_observations)
    )
    scaling = StateScaling.of(states) if scale_states else StateScaling.none(states.shape[1])
    return OfflineData(
        states=scaling(states),
        actions=actions.clamp(-1, 1),
        rewards=torch.from_numpy(scaled_rewards(transition, reward_scaling)),
        next_states=scaling(next_states),
        terminals=torch.from_numpy(np.array(transition.terminals)).float(),
        ends=torch.from_numpy(transition.ends()).float(),
        scaling=scaling,
        action_limit=action_limit,
    )


def scaled_rewards(transition: Transition, scaling: RewardScaling) -> np.ndarray:
    """float32 (rows,), section 0.5: of locomotion 1000 r / (max - min return) over complete trajectories."""
    rewards = np.array(transition.rewards)
    if scaling == "none":
        return rewards
    if scaling == "antmaze":
        return rewards - 1
    returns = transition.episode_returns()[transition.complete_episodes()]
    if len(returns) < 2 or returns.max() == returns.min():
        raise ValueError(
            f"{transition.name}: rewards are scaled by the range of returns, but its {len(returns)} complete episodes "
            "have none: set reward_scaling to none"
        )
    return rewards * np.float32(1000 / (returns.max() - returns.min()))


@dataclass(frozen=True, eq=False)
class OfflineBatch:
    """What an objective reads, with what the trainer asks of a batch."""

    content: Any
    sample_index: Int[Tensor, " batch"]
    num_substituted: int = 0


def row_batches(
    count: int, batch_size: int, seed: int, content: Callable[[Int[Tensor, " batch"]], Any]
) -> Callable[[int], OfflineBatch]:
    """Batches of rows drawn with replacement from the first `count`."""

    def batch(step: int) -> OfflineBatch:
        generator = torch.Generator().manual_seed(step_seed(seed, step))
        rows = torch.randint(count, (batch_size,), generator=generator)
        return OfflineBatch(content(rows), step * batch_size + torch.arange(batch_size))

    return batch


class StageModel(Trainable):
    """A network of the family, for the trainer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


@dataclass(frozen=True)
class OnBatch:
    """An objective of the family, for the trainer: random numbers follow from the batch, whoever draws it."""

    objective: Callable[[Any, Any, torch.Generator], tuple[Tensor, dict[str, Tensor]]]

    def __call__(
        self, model: StageModel, batch: OfflineBatch, generator: SampleGenerator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        draw = generator.torch_generator(batch.sample_index, "offline")
        return self.objective(model.net, batch.content, draw)
