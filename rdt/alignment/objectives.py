"""What several methods train alike: the behaviour model, and anything that ranks noised candidates.

Each is an `AlignmentObjective`: `(model, batch, generator) -> (loss, metrics)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.losses import behaviour_loss, contrastive, soft_labels
from rdt.alignment.models import BehaviorModel, Support
from rdt.diffusion.continuous import Schedule, draw_times, noised


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Actions of the data with their conditions."""

    actions: Float[Tensor, " row *action"]
    cond: Any = None
    mask: Float[Tensor, "row *#action"] | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """A transition of the data."""

    action: Float[Tensor, "row action"]
    reward: Float[Tensor, " row"]
    done: Float[Tensor, " row"]  # 1 at a true terminal, not at a time-out
    cond: Any
    next_cond: Any


@dataclass(frozen=True)
class Behaviour:
    """E |sigma_t score + eps|^2 with t ~ U(t_min, 1): all methods' first stage (section 0.1).

    t_min is 1e-5 in SfBC and 1e-3 in CEP, SRPO and EDA. `stratified` times have less variance and the same mean.
    """

    t_min: float = 1e-3
    stratified: bool = False

    def __call__(
        self, model: BehaviorModel, batch: Demonstrations, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        actions = batch.actions
        t = draw_times(actions.shape[:1], generator, self.t_min, stratified=self.stratified, dtype=actions.dtype)
        noise = normal_like(actions, generator)
        eps = model.eps(noised(model.schedule, actions, t, noise), t, batch.cond)
        return behaviour_loss(eps, noise, batch.mask, event_ndim=actions.ndim - 1), {}


def rank_noised(
    log_ratio: Callable[[Tensor, Tensor, Any], Tensor],
    support: Support,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    label_scale: float,
    t_min: float,
    stratified: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """K-way classification of candidates that were noised to one time a state, independently: CEP and EDA.

    `log_ratio(a_t, t, cond)` gives (row, k). Metrics: how often the candidate of the largest label is ranked first, and
    the spread of the log-ratios within a state.
    """
    actions, label = support.actions, soft_labels(support.value, label_scale)
    t = draw_times(actions.shape[:1], generator, t_min, stratified=stratified, dtype=actions.dtype)
    found = log_ratio(noised(schedule, actions, t, normal_like(actions, generator)), t, support.cond)
    best = (found.argmax(dim=-1) == label.argmax(dim=-1)).to(found.dtype).mean()
    return contrastive(found, label), {"best_first": best, "log_ratio_std": found.detach().std(dim=-1).mean()}


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of the same shape and type, from the generator's device."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
