"""IQL, implicit Q-learning (Kostrikov et al. 2022; spec alignment.md section 0.4), and behaviour cloning beside it.

    u = min(Qbar_1, Qbar_2)(s, a) - V(s)
    L_V = mean |tau - 1[u < 0]| u^2
    L_Q = [ mean (Q_1 - y)^2 + mean (Q_2 - y)^2 ] / 2,     y = r + (1 - done) gamma V(s')

all at the parameters before the step. The policy is regression on the data's own actions, weighted by how much better
than V the critic finds them,

    L_pi = - mean w log pi(a | s),     w = min( exp(temperature (Q(s, a) - V(s))), 100 );

a deterministic policy has |a - pi(s)|^2 in place of - log pi. With weights of 1 that is behaviour cloning. SRPO and EDA
take this critic and no policy of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.critics import TargetedCritic, iql_q_loss, iql_value_loss
from rdt.alignment.nets import DeterministicPolicy, GaussianPolicy
from rdt.alignment.objectives import Demonstrations, Step

MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class ImplicitQ:
    """The critic's objective: V and both Qs at once, whose parameters are apart."""

    expectile: float = 0.7  # AntMaze 0.9
    discount: float = 0.99
    rate: float = 0.005  # at which the target follows

    def __call__(
        self, model: TargetedCritic, batch: Step, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        model.follow(self.rate)
        with torch.no_grad():
            target_q = model.target.q(batch.action, batch.cond)
            v_next = model.v(batch.next_cond)
        v = model.v(batch.cond)
        v_loss = iql_value_loss(target_q, v, self.expectile)
        q_loss = iql_q_loss(
            *model.online.both(batch.action, batch.cond), batch.reward, batch.done, v_next, self.discount
        )
        return v_loss + q_loss, {"v": v.detach().mean(), "v_loss": v_loss.detach(), "q_loss": q_loss.detach()}


@dataclass(frozen=True)
class WeightedImitation:
    """The policy's objective; without a critic it is behaviour cloning."""

    critic: TargetedCritic | None = None
    temperature: float = 3.0  # of advantages: AntMaze 10, Kitchen 0.5

    def __call__(
        self, model: DeterministicPolicy, batch: Demonstrations, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        distance = imitation_distance(model, batch.actions, batch.cond)
        if self.critic is None:
            return distance.mean(), {}
        with torch.no_grad():
            advantage = self.critic.target.q(batch.actions, batch.cond) - self.critic.v(batch.cond)
            weight = (self.temperature * advantage).exp().clamp(max=MAX_WEIGHT)
        return (weight * distance).mean(), {"advantage": advantage.mean(), "weight": weight.mean()}


def imitation_distance(
    model: DeterministicPolicy, actions: Float[Tensor, "*batch action"], cond: Float[Tensor, "*batch state"]
) -> Float[Tensor, "*batch"]:
    """- log pi(a | s) where the policy has a density, else |a - pi(s)|^2."""
    if isinstance(model, GaussianPolicy):
        return -model.logp(actions, cond)
    return (actions - model.act(cond)).square().sum(dim=-1)
