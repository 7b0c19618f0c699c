"""Where SRPO should end in two dimensions: the optimum of its own objective (spec alignment.md sections 3 and 9.1).

With Q(a) = -|a - target|^2 and an exact behaviour score, the gradient w (eps - z) - beta grad Q is that of

    J(a) = beta Q(a) + E_t[ (w sigma / alpha) E_z log mu_t(alpha a + sigma z) ],     t ~ U(0.02, 0.98),

which is integrated here by Gauss-Legendre in t and Gauss-Hermite in z, searched on a grid and refined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rdt.alignment.losses import TimeWeight
from rdt.alignment.toy import Mixture

OFF_SUPPORT = 6.0  # log mu below its peak by more
TIE = 1e-3  # optima whose objectives are so close are both right: eight of them where the target is the centre


def targets(side: int = 9) -> Float[Tensor, "target 2"]:
    """What the critic wants: a square grid over [-4, 4]^2."""
    axis = torch.linspace(-4, 4, side)
    return torch.cartesian_prod(axis, axis)


class Accuracy(NamedTuple):
    """Of the integrals and of the search."""

    time_nodes: int = 40
    noise_nodes: int = 10  # along each axis
    grid_side: int = 81


FINE, ROUGH = Accuracy(), Accuracy(12, 6, 21)


@dataclass(frozen=True, eq=False)
class ScoreRegularised:
    """J of one weight and one beta, over `Mixture`'s behaviour."""

    behaviour: Mixture
    weight: TimeWeight
    beta: float
    times: tuple[float, float] = (0.02, 0.98)
    accuracy: Accuracy = FINE

    def value(self, a: Float[Tensor, "n 2"], target: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return -self.beta * (a - target).square().sum(dim=-1) + self.regulariser(a)

    def regulariser(self, a: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        schedule, (low, high) = self.behaviour.schedule, self.times
        nodes, shares = np.polynomial.legendre.leggauss(self.accuracy.time_nodes)
        t = a.new_tensor((low + high) / 2 + (high - low) / 2 * nodes)
        z, z_shares = self._noise(a)
        total = torch.zeros_like(a[:, 0])
        for at, share in zip(t, a.new_tensor(shares / 2), strict=True):
            alpha, sigma = schedule.alpha(at), schedule.sigma(at)
            smoothed = self.behaviour.logp(alpha * a[:, None] + sigma * z, at) @ z_shares
            total = total + share * self.weight(alpha, sigma) * sigma / alpha * smoothed
        return total

    def optima(
        self, target: Float[Tensor, "target 2"]
    ) -> tuple[Float[Tensor, "target start 2"], Float[Tensor, "target start"]]:
        """Local optima from the grid's best point and from every mode, with their values."""
        axis = torch.linspace(-5, 5, self.accuracy.grid_side)
        grid = torch.cartesian_prod(axis, axis)
        pull = torch.cat([self.regulariser(part) for part in grid.split(2048)])
        best = grid[(pull - self.beta * (grid - target[:, None]).square().sum(dim=-1)).argmax(dim=1)]
        modes = self.behaviour.means.expand(len(target), -1, -1)
        start = torch.cat([best[:, None], modes], dim=1)  # (target, 9, 2)
        wanted = target[:, None].expand_as(start).reshape(-1, 2)
        a = start.reshape(-1, 2).clone().requires_grad_()
        optimizer = torch.optim.LBFGS([a], max_iter=40, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = -self.value(a, wanted).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            value = self.value(a, wanted)
        return a.detach().reshape_as(start), value.reshape(start.shape[:2])

    def _noise(self, a: Tensor) -> tuple[Float[Tensor, "node 2"], Float[Tensor, " node"]]:
        """A standard normal in two dimensions as nodes and shares."""
        nodes, shares = np.polynomial.hermite_e.hermegauss(self.accuracy.noise_nodes)
        line, weight = a.new_tensor(nodes), a.new_tensor(shares / shares.sum())
        return torch.cartesian_prod(line, line), torch.outer(weight, weight).flatten()


@dataclass(frozen=True)
class Report:
    """Over all targets and starts; shares in [0, 1]."""

    within: float  # 0.15 of an optimum
    median_distance: float
    objective_gap: float
    off_support: float
    off_support_of_optimum: float


def judge(
    found: Float[Tensor, "target start 2"], target: Float[Tensor, "target 2"], objective: ScoreRegularised
) -> Report:
    """How far actions are from the optimum of the objective that made them."""
    optima, value = objective.optima(target)
    best = value.amax(dim=1, keepdim=True)
    apart = torch.cdist(found, optima).masked_fill((value < best - TIE)[:, None], torch.inf)
    distance = apart.amin(dim=2)
    wanted = target[:, None].expand_as(found).reshape(-1, 2)
    with torch.no_grad():
        reached = torch.cat(
            [objective.value(*part) for part in zip(found.reshape(-1, 2).split(648), wanted.split(648), strict=True)]
        )
    first = optima[torch.arange(len(target)), value.argmax(dim=1)]
    return Report(
        within=float((distance < 0.15).float().mean()),
        median_distance=float(distance.median()),
        objective_gap=float((best - reached.reshape(distance.shape)).mean()),
        off_support=float(off_support(found.reshape(-1, 2), objective.behaviour).float().mean()),
        off_support_of_optimum=float(off_support(first, objective.behaviour).float().mean()),
    )


def off_support(a: Float[Tensor, "n 2"], behaviour: Mixture) -> Bool[Tensor, " n"]:
    """Where log mu is more than 6 below its peak."""
    zero = torch.zeros(())
    return behaviour.logp(a, zero) < behaviour.logp(behaviour.means, zero).max() - OFF_SUPPORT


class PointPolicy(nn.Module):
    """One free action for each condition: what a student of any size could at best become."""

    def __init__(self, start: Float[Tensor, "row 2"]) -> None:
        super().__init__()
        self.action = nn.Parameter(start.clone())

    def act(self, cond: Tensor) -> Float[Tensor, "row 2"]:
        return self.action
