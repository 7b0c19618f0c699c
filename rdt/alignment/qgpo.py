"""CEP, contrastive energy prediction, and QGPO, its form for reinforcement learning (Lu et al. 2023; spec section 2).

For p ~ q e^(beta E), noised alike, the scores of all times differ by the gradient of an intermediate energy,

    grad log p_t = grad log q_t + grad E_t,      E_t(x_t) = log E_q(x_0|x_t) [ e^(beta E(x_0)) ],

which is learnt by telling K samples of one state apart after they were noised to one time:

    L = - mean_s sum_k softmax_k(beta E(x^k)) log softmax_k( f(x_t^k, t, s) ),      f = E_t + C(t, s) as K grows.

The policy is `models.Guided(behaviour, f)`. QGPO's E is a critic of K support actions, learnt beside f:

    y = r + (1 - done) gamma sum_k softmax_k(beta_Q Qbar(s', a'_k)) Qbar(s', a'_k)

so that neither the target nor the labels ask about an action outside the behaviour's samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.critics import TargetedCritic, softmax_q_target, twin_q_loss
from rdt.alignment.losses import energy_exponential_mse, energy_mse
from rdt.alignment.models import Energy, Support
from rdt.alignment.objectives import Step, normal_like, rank_noised
from rdt.diffusion.continuous import LINEAR_VP, Schedule, draw_times, noised


@dataclass(frozen=True)
class ContrastiveEnergy:
    """The energy's objective. A row of the batch is a state; without states one row holds all samples.

    `beta` multiplies the values that come with the batch. An energy for many temperatures reads beta as its condition;
    then the batch's values are beta E already, and `beta` is 1.
    """

    beta: float = 3.0
    schedule: Schedule = LINEAR_VP
    t_min: float = 1e-3
    stratified: bool = False

    def __call__(self, model: Energy, batch: Support, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return rank_noised(
            model,
            batch,
            self.schedule,
            generator,
            label_scale=self.beta,
            t_min=self.t_min,
            stratified=self.stratified,
        )


@dataclass(frozen=True)
class EnergyRegression:
    """The baselines: each sample at a time of its own, against beta E (`mse`) or in exponentials (`emse`).

    For `emse` the values are E - b already, with b the largest energy, and beta (E - b) is clipped as published.
    """

    kind: Literal["mse", "emse"] = "mse"
    beta: float = 3.0
    schedule: Schedule = LINEAR_VP
    t_min: float = 1e-3
    clip: tuple[float, float] = (-100.0, 4.0)

    def __call__(self, model: Energy, batch: Support, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        actions = batch.actions
        t = draw_times(batch.value.shape, generator, self.t_min, dtype=actions.dtype)
        f = model(noised(self.schedule, actions, t, normal_like(actions, generator)), t, batch.cond)
        target = self.beta * batch.value
        if self.kind == "mse":
            return energy_mse(f, target), {}
        return energy_exponential_mse(f, target, self.clip), {}


@dataclass(frozen=True, eq=False)
class SupportTransition(Step):
    """A transition of the data with K behaviour actions in its next state."""

    next_actions: Float[Tensor, "row k action"]


@dataclass(frozen=True)
class SoftmaxQ:
    """The critic's objective."""

    alpha: float = 1.0  # beta_Q: 1 locomotion, 20 AntMaze
    discount: float = 0.99
    rate: float = 0.005  # at which the target follows

    def __call__(
        self, model: TargetedCritic, batch: SupportTransition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        model.follow(self.rate)
        with torch.no_grad():
            q_next = model.target.q(batch.next_actions, batch.next_cond)
        y = softmax_q_target(batch.reward, batch.done, q_next, self.alpha, self.discount)
        return twin_q_loss(*model.online.both(batch.action, batch.cond), y), {"q_target": y.mean()}
