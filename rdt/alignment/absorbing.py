"""Demonstrations as state-action pairs with absorbing states: what follows an episode's end is learnt like the rest.

Without them a reward that is always positive pays for survival and one that is always negative for an early end,
whatever the expert did (GAIL-DAC: Kostrikov et al. 2019; spec imitation_rl.md 1.4). Observations get one more entry,
0 in life; the absorbing state is zeros and a 1, and the only action in it is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.actors import Rollout

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class ExpertPairs:
    """Rows of what a discriminator calls the expert's."""

    observations: Float[Tensor, "row obs"]
    actions: Float[Tensor, "row act"]
    weight: Float[Tensor, " row"]  # 1, less for absorbing rows of subsampled trajectories

    def __len__(self) -> int:
        return len(self.weight)

    def sample(self, num_rows: int) -> ExpertPairs:
        """Rows drawn with replacement by torch's global generator, as Tianshou's noise is."""
        row = torch.randint(len(self), (num_rows,))
        return ExpertPairs(self.observations[row], self.actions[row], self.weight[row])


def alive(observations: Float[Array, "*batch obs"]) -> Float[Array, "*batch obs+1"]:
    """With the indicator of an ordinary state."""
    return np.concatenate([observations, np.zeros_like(observations[..., :1])], axis=-1)


def absorbing_state(num_entries: int) -> Float[Array, " obs+1"]:
    """Zeros and a 1, for observations of so many entries without the indicator."""
    return np.append(np.zeros(num_entries), 1.0)


def act_only_in_life(
    observations: Float[Tensor, "*batch obs+1"], actions: Float[Tensor, "*batch act"]
) -> Float[Tensor, "*batch act"]:
    """Actions, zero where the observation is the absorbing state."""
    return actions * (1 - observations[..., -1:])


def policy_space(
    actions: Float[Array, "*batch act"], low: Float[Array, " act"], high: Float[Array, " act"]
) -> Float[Array, "*batch act"]:
    """The environment's actions, in [low, high], as those of a policy, in [-1, 1]."""
    return np.clip(2 * (actions - low) / (high - low) - 1, -1, 1)


def expert_pairs(
    rollouts: Sequence[Rollout],
    bounds: tuple[Float[Array, " act"], Float[Array, " act"]],
    steps_each: int | None,
    seed: int,
    *,
    absorbing: bool = True,
) -> ExpertPairs:
    """Every `rate`-th step of each episode from a random offset, `steps_each` of them; all steps without it.

    `bounds` are those of the actions. With `absorbing` observations get the indicator, and an episode that terminated
    has one more row, absorbing and with weight 1 / rate: it is never dropped, so it must count for less.
    """
    if not rollouts:
        raise ValueError("no demonstration was given: at least one episode is needed")
    generator = np.random.default_rng(seed)
    observations, actions, weight = [], [], []
    for rollout in rollouts:
        rate = 1 if steps_each is None else max(1, len(rollout) // steps_each)
        kept = np.arange(generator.integers(rate), len(rollout), rate)[:steps_each]
        seen = rollout.observations[kept]
        observations.append(alive(seen) if absorbing else seen)
        actions.append(policy_space(rollout.actions[kept], *bounds))
        weight.append(np.ones(len(kept)))
        if absorbing and rollout.terminated:
            observations.append(absorbing_state(seen.shape[1])[None])
            actions.append(np.zeros_like(actions[-1][:1]))
            weight.append(np.array([1 / rate]))
    return ExpertPairs(*(torch.from_numpy(np.concatenate(part)).float() for part in (observations, actions, weight)))
