"""SfBC, selecting from behaviour candidates (Chen et al. 2023; spec alignment.md section 1).

    behaviour   E |sigma_t score + eps|^2                                        `objectives.Behaviour(t_min=1e-5)`
    critic      E (Q(s, a) - R)^2 on standardised returns R
    planning    V_i = [sum_k softmax_k(alpha Q_k) Q_k] std + mean                over M behaviour actions, drawn once
                R_i = max(r_i + gamma R_{i+1} (1 - done_i), V_i)                 then standardise, and train Q anew
    acting      a = mean of n of M candidates, drawn with softmax(alpha Q)       `models.best_of`

There is no policy to train, and nothing can leave the behaviour's support: the only bias is that M is finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.critics import SingleCritic, planned_returns, standardise, support_values
from rdt.alignment.models import BehaviorModel, sample_actions
from rdt.diffusion.ode import SFBC_SOLVER, DPMSolver


@dataclass(frozen=True, eq=False)
class Returns:
    """Actions and the standardised return that followed them."""

    actions: Float[Tensor, "row action"]
    returns: Float[Tensor, " row"]
    cond: Any = None


@dataclass(frozen=True)
class ReturnRegression:
    """The critic's objective, mean (Q(s, a) - R)^2."""

    def __call__(
        self, model: SingleCritic, batch: Returns, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        error = model.q(batch.actions, batch.cond) - batch.returns
        return error.square().mean(), {}


class Standardised(NamedTuple):
    """Returns as a critic is trained on them, and the way back to the data's units."""

    returns: Float[Tensor, " step"]
    mean: float
    std: float


def first_returns(
    rewards: Float[Tensor, " step"], ends: Float[Tensor, " step"], discount: float = 0.99
) -> Standardised:
    """The data's own discounted returns; `ends` marks the last step of each trajectory, time-outs included."""
    nothing = torch.full_like(rewards, -torch.inf)
    return Standardised(*standardise(planned_returns(rewards, ends, nothing, discount)))


def plan(
    rewards: Float[Tensor, " step"],
    ends: Float[Tensor, " step"],
    q_support: Float[Tensor, "step k"],
    before: Standardised,
    alpha: float = 20.0,
    discount: float = 0.99,
) -> Standardised:
    """One sweep of in-sample planning with a critic's values of M behaviour actions in every state."""
    values = support_values(q_support, alpha, before.mean, before.std)
    return Standardised(*standardise(planned_returns(rewards, ends, values, discount)))


def support_actions(
    model: BehaviorModel,
    states: Float[Tensor, "step state"],
    action_dim: int,
    generator: torch.Generator,
    *,
    num_candidates: int = 16,
    rows: int = 4096,
    solver: DPMSolver = SFBC_SOLVER,
    progress: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "step k action"]:
    """M behaviour actions in every state of the data, drawn once and kept where the states are."""
    pieces = []
    for start in range(0, len(states), rows):
        cond = states[start : start + rows]
        shape = (len(cond), num_candidates, action_dim)
        pieces.append(
            sample_actions(model, cond.to(generator.device), shape, generator, solver=solver).to(states.device)
        )
        progress(start + len(cond))
    return torch.cat(pieces)
