"""CCA, condition contrastive alignment (Chen et al. 2024; spec alignment.md section 6).

Positives are pairs (x, c) of the data; negatives keep x and take the next row's condition. With
g = log p_theta(x|c) - log p_ref(x|c),

    L = - mean log sigmoid(beta g+) - lambda mean log sigmoid(-beta g-),

whose optimum p_theta(x|c) ~ p_ref(x|c) (p(x|c) / p(x))^(1 / beta) is classifier-free guidance of scale 1 / beta, folded
into the weights: sampling costs half. Where conditions are dropped (the same rows in both halves), rows whose two
conditions are one become positives of weight 1, and all is divided by max(lambda, 1).

Labels need no reward. Dropout stays on in both networks, and both halves go through in one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rdt.alignment.log_ratio import denoising_error
from rdt.alignment.losses import CcaKind, cca
from rdt.alignment.models import BehaviorModel
from rdt.alignment.objectives import normal_like
from rdt.diffusion.continuous import draw_times


class Contrast(NamedTuple):
    """The two conditions of each row."""

    positive: Int[Tensor, " row"]
    negative: Int[Tensor, " row"]
    same: Bool[Tensor, " row"]  # rows whose two conditions are one


def contrast(
    condition: Int[Tensor, " row"], dropped: Bool[Tensor, " row"] | None = None, null: int | None = None
) -> Contrast:
    """Each row's condition beside the next row's; dropped rows have `null` for both.

    Conditions are numbers: labels, or which instruction a row has. A batch is to be shuffled; a random permutation
    would pair rows with themselves more often than the data do.
    """
    negative = condition.roll(-1)
    if dropped is not None:
        if null is None:
            raise ValueError("rows are dropped, but no condition stands for none: give `null`")
        condition, negative = condition.where(~dropped, null), negative.where(~dropped, null)
    return Contrast(condition, negative, condition == negative)


@dataclass(frozen=True, eq=False)
class Conditioned:
    """Actions with the number of their condition, and the two halves' conditions as the network reads them."""

    actions: Float[Tensor, " row *action"]
    cond: Any  # of rows 2 * row: the positives', then the negatives'
    same: Bool[Tensor, " row"] | None = None


@dataclass(frozen=True)
class DiffusionCCA:
    """For diffusion models: log-ratios are differences of denoising errors on draws that both halves share."""

    reference: BehaviorModel
    beta: float = 0.02
    lambda_: float = 1.0
    kind: CcaKind = "CCA"
    draws: int = 4
    t_min: float = 1e-3
    t_max: float = 1.0
    weight: Callable[[Tensor], Tensor] = torch.ones_like
    mask: Float[Tensor, "row *#action"] | None = None

    def __call__(
        self, model: BehaviorModel, batch: Conditioned, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        actions = batch.actions
        rows = actions.shape[:1]
        times = [draw_times(rows, generator, self.t_min, self.t_max, dtype=actions.dtype) for _ in range(self.draws)]
        noises = [normal_like(actions, generator) for _ in range(self.draws)]
        g = denoising_error(
            model,
            self.reference,
            _twice(actions),
            batch.cond,
            [_twice(t) for t in times],
            [_twice(noise) for noise in noises],
            weight=self.weight,
            mask=None if self.mask is None else _twice(self.mask),
            event_ndim=actions.ndim - 1,
        )
        positive, negative = g.chunk(2)
        loss = cca(positive, negative, self.beta, self.lambda_, batch.same, self.kind)
        apart = positive.detach() - negative.detach()
        return loss, {"median_beta_g": (self.beta * g.detach()).abs().median(), "g_apart": apart.mean()}


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])
