"""Learning how good actions are, without asking about actions outside the data (spec alignment.md 0.4, 1 and 2).

    implicit Q-learning    an expectile of Q over the data's actions stands for the maximum      SRPO, EDA
    softmax Q-learning     the next value is a softmax over K behaviour samples                  QGPO
    in-sample planning     returns that may switch to a better trajectory where one is known     SfBC

`done` is a true terminal, not a time-out, except in planning, where a trajectory ends either way.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rdt.alignment.nets import MLP, lead


class TwinCritic(nn.Module):
    """Two Qs of (action, state), whose minimum is the pessimistic one. Both are in the module, so both are saved."""

    def __init__(self, action_dim: int, state_dim: int, hidden: tuple[int, ...] = (256, 256)) -> None:
        super().__init__()
        self.q1 = MLP(action_dim + state_dim, 1, hidden, nn.ReLU)
        self.q2 = MLP(action_dim + state_dim, 1, hidden, nn.ReLU)

    def both(
        self, a: Float[Tensor, "*batch action"], cond: Float[Tensor, "*lead state"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        x = torch.cat([lead(cond, a.shape[:-1]), a], dim=-1)
        return self.q1(x)[..., 0], self.q2(x)[..., 0]

    def q(self, a: Float[Tensor, "*batch action"], cond: Float[Tensor, "*lead state"]) -> Float[Tensor, "*batch"]:
        return torch.minimum(*self.both(a, cond))

    def mean(self, a: Float[Tensor, "*batch action"], cond: Float[Tensor, "*lead state"]) -> Float[Tensor, "*batch"]:
        """What SRPO climbs."""
        q1, q2 = self.both(a, cond)
        return (q1 + q2) / 2

    def forward(self, a: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        return self.both(a, cond)


class SingleCritic(nn.Module):
    """One Q of (action, state), SiLU: SfBC's regression on standardised returns."""

    def __init__(self, action_dim: int, state_dim: int, hidden: tuple[int, ...] = (256, 256)) -> None:
        super().__init__()
        self.net = MLP(action_dim + state_dim, 1, hidden, nn.SiLU)

    def q(self, a: Float[Tensor, "*batch action"], cond: Float[Tensor, "*lead state"]) -> Float[Tensor, "*batch"]:
        return self.net(torch.cat([lead(cond, a.shape[:-1]), a], dim=-1))[..., 0]

    def forward(self, a: Tensor, cond: Any) -> Tensor:
        return self.q(a, cond)


def value_net(state_dim: int, hidden: tuple[int, ...] = (256, 256)) -> MLP:
    """V(s) of implicit Q-learning, (*batch, 1)."""
    return MLP(state_dim, 1, hidden, nn.ReLU)


class TargetedCritic(nn.Module):
    """Twins that train, the slow copy that their targets and all labels ask, and where a method has one, V(s).

    An objective calls `follow` before its loss: the copy then takes the step before this one into account, as when it
    is moved after each step.
    """

    def __init__(
        self, action_dim: int, state_dim: int, hidden: tuple[int, ...] = (256, 256), *, with_value: bool = False
    ) -> None:
        super().__init__()
        self.online = TwinCritic(action_dim, state_dim, hidden)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.value = value_net(state_dim, hidden) if with_value else None

    def follow(self, rate: float) -> None:
        polyak_(self.target, self.online, rate)

    def v(self, cond: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch"]:
        if self.value is None:
            raise TypeError("this critic has no V(s): it was made without one")
        return self.value(cond)[..., 0]


def iql_value_loss(
    target_q: Float[Tensor, "*batch"], v: Float[Tensor, "*batch"], expectile: float = 0.7
) -> Float[Tensor, ""]:
    """mean |tau - 1[u < 0]| u^2 with u = min of the target twins - V(s)."""
    u = target_q.detach() - v
    return ((expectile - (u < 0).to(u.dtype)).abs() * u.square()).mean()


def td_target(
    reward: Float[Tensor, "*batch"],
    done: Float[Tensor, "*batch"] | Bool[Tensor, "*batch"],
    next_value: Float[Tensor, "*batch"],
    discount: float = 0.99,
) -> Float[Tensor, "*batch"]:
    """y = r + (1 - done) gamma V(s')."""
    return (reward + (1 - done.to(reward.dtype)) * discount * next_value).detach()


def twin_q_loss(
    q1: Float[Tensor, "*batch"], q2: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    """[ mean (Q1 - y)^2 + mean (Q2 - y)^2 ] / 2."""
    return ((q1 - target).square().mean() + (q2 - target).square().mean()) / 2


def iql_q_loss(
    q1: Float[Tensor, "*batch"],
    q2: Float[Tensor, "*batch"],
    reward: Float[Tensor, "*batch"],
    done: Float[Tensor, "*batch"] | Bool[Tensor, "*batch"],
    v_next: Float[Tensor, "*batch"],
    discount: float = 0.99,
) -> Float[Tensor, ""]:
    """Twin regression on r + (1 - done) gamma V(s')."""
    return twin_q_loss(q1, q2, td_target(reward, done, v_next, discount))


def softmax_value(q_support: Float[Tensor, "*batch k"], alpha: float) -> Float[Tensor, "*batch"]:
    """sum_k softmax_k(alpha Q) Q over behaviour samples: from their mean (alpha = 0) to their maximum."""
    return ((alpha * q_support).softmax(dim=-1) * q_support).sum(dim=-1)


def softmax_q_target(
    reward: Float[Tensor, "*batch"],
    done: Float[Tensor, "*batch"] | Bool[Tensor, "*batch"],
    q_next_support: Float[Tensor, "*batch k"],
    alpha: float = 1.0,
    discount: float = 0.99,
) -> Float[Tensor, "*batch"]:
    """y = r + (1 - done) gamma sum_k softmax_k(alpha Q'_k) Q'_k (section 2)."""
    return td_target(reward, done, softmax_value(q_next_support, alpha), discount)


@torch.no_grad()
def polyak_(target: nn.Module, online: nn.Module, rate: float = 0.005) -> None:
    """target <- (1 - rate) target + rate online, parameter by parameter; buffers are copied."""
    for old, now in zip(target.parameters(), online.parameters(), strict=True):
        old.lerp_(now, rate)
    for kept, current in zip(target.buffers(), online.buffers(), strict=True):
        kept.copy_(current)


def planned_returns(
    rewards: Float[Tensor, " step"],
    done: Float[Tensor, " step"] | Bool[Tensor, " step"],
    values: Float[Tensor, " step"],
    discount: float = 0.99,
) -> Float[Tensor, " step"]:
    """R_i = max( r_i + gamma R_{i+1} (1 - done_i), V_i ), backwards through trajectories end to end (section 1)."""
    found: list[float] = []
    following = 0.0
    for reward, end, value in zip(
        reversed(rewards.tolist()), reversed(done.tolist()), reversed(values.tolist()), strict=True
    ):
        following = max(reward + discount * following * (1 - end), value)
        found.append(following)
    return rewards.new_tensor(found[::-1])


def support_values(
    q_support: Float[Tensor, "step k"], alpha: float = 20.0, mean: float = 0.0, std: float = 1.0
) -> Float[Tensor, " step"]:
    """V_i of planning, in the units of returns, from Qs in standardised units."""
    return softmax_value(q_support, alpha) * std + mean


def standardise(returns: Float[Tensor, " step"], std_floor: float = 0.1) -> tuple[Float[Tensor, " step"], float, float]:
    """Returns with mean 0 and deviation 1, the mean, and the deviation (at least `std_floor`)."""
    mean, std = float(returns.mean()), max(float(returns.std(correction=0)), std_floor)
    return (returns - mean) / std, mean, std
