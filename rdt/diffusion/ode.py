"""DPM-Solver of the probability-flow ODE in continuous time, on a grid uniform in t (spec alignment.md 0.2).

With lambda = log(alpha / sigma), h = lambda' - lambda (primes: after the step) and m the prediction, every step is

    x' = A x - B [ phi_1 m + correction ],     phi_1 = e^k - 1,   phi_2 = phi_1 / k - 1,

    noise prediction   m = eps                       A = alpha' / alpha   B = sigma'   k = h
    data prediction    m = (x - sigma eps) / alpha   A = sigma' / sigma   B = alpha'   k = -h     ("++")

    order 1      no correction
    order 2      phi_1 (m_1 - m) / 2 r_1          m_1: the prediction at lambda + r_1 h
    order 3      phi_2 (m_2 - m) / r_2            m_2 at lambda + r_2 h, reached with (r_2 / r_1) phi_2(r_2 k) (m_1 - m)
    multistep 2  phi_1 (m - m_before) / 2 r       r = h_before / h; the first step is of order 1

A single step of order p spans p intervals of the grid and its inner nodes are the grid's own points, as published: r_1
is then neither 1/2 nor 1/3. One evaluation of the network an interval, and none at the end.

`solver.py` is the sampler that RDT was published with: discrete steps, whose last one ends at sigma = 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.diffusion.continuous import Schedule

Method = Literal["singlestep", "multistep"]
Prediction = Literal["noise", "data"]
NoisePrediction = Callable[[Tensor, Tensor], Tensor]
"""eps(a_t, t) with its condition bound; t has no axes: one time for all."""


class _Node(NamedTuple):
    """A point of the time grid."""

    t: float
    alpha: float
    sigma: float
    lambda_: float


@dataclass(frozen=True)
class DPMSolver:
    """A sampler by its settings. `steps` is the number of network evaluations.

    With an even number of steps, order 2 and single steps the published variants disagree; here all steps are then of
    order 2.
    """

    steps: int = 15
    order: int = 2
    method: Method = "singlestep"
    prediction: Prediction = "data"
    t_start: float = 1.0
    t_end: float = 1e-3

    def __post_init__(self) -> None:
        orders = {"singlestep": (1, 2, 3), "multistep": (1, 2)}
        if self.method not in orders or self.prediction not in get_args(Prediction):
            raise ValueError(f"no {self.method} of {self.prediction}: take singlestep or multistep, of noise or data")
        if self.order not in orders[self.method]:
            raise ValueError(f"{self.method} has orders {orders[self.method]}, got {self.order}")
        if self.steps < 1 or not 0 < self.t_end < self.t_start <= 1:
            raise ValueError(
                f"expected at least one step and 0 < t_end < t_start <= 1, got {self.steps} steps from {self.t_start} "
                f"to {self.t_end}"
            )

    def __call__(
        self, eps: NoisePrediction, noise: Float[Tensor, "*batch action"], schedule: Schedule
    ) -> Float[Tensor, "*batch action"]:
        """Actions at `t_end` from noise at `t_start`, in the type of `noise`; differentiable where `eps` is."""
        grid = self._grid(schedule)
        if self.method == "multistep":
            return self._multistep(eps, noise, grid)
        x, at = noise, 0
        for order in self._orders():
            x = self._single(eps, x, grid[at : at + order + 1])
            at += order
        return x

    def _grid(self, schedule: Schedule) -> list[_Node]:
        t = torch.linspace(self.t_start, self.t_end, self.steps + 1, dtype=torch.float64)
        columns = t, schedule.alpha(t), schedule.sigma(t), schedule.half_log_snr(t)
        return [_Node(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def _orders(self) -> list[int]:
        """Of the single steps; their sum is the number of evaluations, and the last ones are lower where it must be."""
        full, rest = divmod(self.steps, self.order)
        if self.order == 3 and rest == 0:
            return [3] * (full - 1) + [2, 1]
        return [self.order] * full + ([rest] if rest else [])

    def _ask(self, eps: NoisePrediction, x: Tensor, at: _Node) -> Tensor:
        """m at a node."""
        found = eps(x, torch.full((), at.t, dtype=x.dtype, device=x.device))
        return found if self.prediction == "noise" else (x - at.sigma * found) / at.alpha

    def _move(self, x: Tensor, start: _Node, end: _Node, weighted: Callable[[float], Tensor]) -> Tensor:
        """A x - B weighted(k), for the bracket of the equation as a function of k."""
        h = end.lambda_ - start.lambda_
        if self.prediction == "noise":
            return end.alpha / start.alpha * x - end.sigma * weighted(h)
        return end.sigma / start.sigma * x - end.alpha * weighted(-h)

    def _single(self, eps: NoisePrediction, x: Tensor, nodes: list[_Node]) -> Tensor:
        """One step over 1, 2 or 3 intervals of the grid."""
        start, end = nodes[0], nodes[-1]
        r = [(node.lambda_ - start.lambda_) / (end.lambda_ - start.lambda_) for node in nodes[1:-1]]
        m = self._ask(eps, x, start)
        if not r:
            return self._move(x, start, end, lambda k: math.expm1(k) * m)
        x_1 = self._move(x, start, nodes[1], lambda k: math.expm1(k) * m)
        d_1 = self._ask(eps, x_1, nodes[1]) - m
        if len(r) == 1:
            return self._move(x, start, end, lambda k: math.expm1(k) * (m + d_1 / (2 * r[0])))
        x_2 = self._move(x, start, nodes[2], lambda k: math.expm1(k) * m + r[1] / r[0] * _phi_2(k) * d_1)
        d_2 = self._ask(eps, x_2, nodes[2]) - m
        return self._move(x, start, end, lambda k: math.expm1(k) * m + _phi_2(k) / r[1] * d_2)

    def _multistep(self, eps: NoisePrediction, x: Tensor, grid: list[_Node]) -> Tensor:
        before: Tensor | None = None
        h_before = math.nan
        for start, end in itertools.pairwise(grid):
            m = self._ask(eps, x, start)
            h = end.lambda_ - start.lambda_
            ahead = m if before is None or self.order == 1 else m + (m - before) * (h / (2 * h_before))
            x = self._move(x, start, end, lambda k, ahead=ahead: math.expm1(k) * ahead)  # type: ignore[misc]
            before, h_before = m, h
        return x


SFBC_SOLVER = DPMSolver(steps=15, order=3, method="singlestep", prediction="noise")
RL_SOLVER = DPMSolver(steps=15, order=2, method="singlestep", prediction="data")
"""Of QGPO and EDA."""
TOY_SOLVER = DPMSolver(steps=25, order=2, method="multistep", prediction="noise")


def _phi_2(k: float) -> float:
    return math.expm1(k) / k - 1
