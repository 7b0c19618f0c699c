"""EDA, efficient diffusion alignment (Chen et al. 2024; spec alignment.md section 4).

The policy is a scalar network whose gradient is its score,

    eps = - sigma_t grad f(a_t | s, t),      f = log mu_t + C(s, t) after behaviour training,

so that densities can be compared. From a copy of the behaviour it is fine-tuned by telling K behaviour samples of a
state apart, all noised to one time:

    L = - mean_s sum_k softmax_k(alpha Q(s, a^k)) log softmax_k( beta [ f_pi(a_t^k) - f_mu(a_t^k) ] ).

At t = 0, pi ~ mu e^(alpha Q / beta). Only with beta = 1 all t > 0 belong to one diffusion process; f_pi - f_mu is then
the E_t of CEP. The behaviour is frozen, dropout is off in both.

`Additive` keeps that form by construction: f_pi = f_mu + g with a small g that begins at 0. It costs one more network
in the sampler, and where the behaviour is not a scalar network (RDT), g alone is trained: `models.Guided`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rdt.alignment.log_ratio import bottleneck
from rdt.alignment.losses import behaviour_loss
from rdt.alignment.models import DensityModel, Energy, Support, density_eps
from rdt.alignment.objectives import normal_like, rank_noised
from rdt.diffusion.continuous import Schedule, draw_times, noised


@dataclass(frozen=True)
class EDA:
    """The fine-tuning objective; `reference` is the frozen behaviour, in eval mode."""

    reference: DensityModel
    alpha: float = 3.0  # of the labels
    beta: float = 1.0  # the inner KL coefficient
    t_min: float = 1e-3
    stratified: bool = False
    anchor: float = 0.0
    """Weight of a term that the publication has not: E |sigma_t grad (f_pi - f_mu)|^2 on noised candidates. A scalar
    network's values at the data do not bind its gradient off them, and samples go astray; this does."""

    def __call__(
        self, model: DensityModel, batch: Support, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = rank_noised(
            lambda a_t, t, cond: self.beta * bottleneck(model, self.reference, a_t, t, cond),
            batch,
            self.reference.schedule,
            generator,
            label_scale=self.alpha,
            t_min=self.t_min,
            stratified=self.stratified,
        )
        if not self.anchor:
            return loss, metrics
        term = self._off_the_reference(model, batch, generator)
        return loss + self.anchor * term, {**metrics, "anchor": term.detach()}

    def _off_the_reference(self, model: DensityModel, batch: Support, generator: torch.Generator) -> Tensor:
        t = draw_times(batch.value.shape, generator, self.t_min, dtype=batch.actions.dtype)
        a_t = noised(self.reference.schedule, batch.actions, t, normal_like(batch.actions, generator))
        with torch.no_grad():
            expected = self.reference.eps(a_t, t, batch.cond)
        return behaviour_loss(model.eps(a_t, t, batch.cond), expected, event_ndim=batch.actions.ndim - 2)


class Additive(nn.Module):
    """f_pi = f_mu + g: the behaviour is held, not owned, and only g is trained."""

    def __init__(self, reference: DensityModel, energy: nn.Module) -> None:
        super().__init__()
        self._reference = (reference,)  # in a tuple, so that its weights are no parameters of this one
        self.energy = energy

    @property
    def schedule(self) -> Schedule:
        return self._reference[0].schedule

    def logp(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Any) -> Float[Tensor, "*batch"]:
        return self._reference[0].logp(a_t, t, cond) + self.energy(a_t, t, cond)

    def eps(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Any) -> Float[Tensor, "*batch action"]:
        energy: Energy = self.logp
        return density_eps(energy, self.schedule, a_t, t, cond)
