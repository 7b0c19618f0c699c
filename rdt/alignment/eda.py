"""EDA, efficient diffusion alignment (Chen et al. 2024; spec alignment.md section 4).

The policy is a scalar network whose gradient is its score,

    eps = - sigma_t grad f(a_t | s, t),      f = log mu_t + C(s, t) after behaviour training,

so that densities can be compared. From a copy of the behaviour it is fine-tuned by telling K behaviour samples of a
state apart, all noised to one time:

    L = - mean_s sum_k softmax_k(alpha Q(s, a^k)) log softmax_k( beta [ f_pi(a_t^k) - f_mu(a_t^k) ] ).

At t = 0, pi ~ mu e^(alpha Q / beta). Only with beta = 1 all t > 0 belong to one diffusion process; f_pi - f_mu is then
the E_t of CEP. The behaviour is frozen, dropout is off in both.

Where the behaviour is no scalar network (RDT), f_pi = f_mu + g with a small g leaves it as it is: `models.Guided`
is that policy, and its loss is the one of `qgpo.ContrastiveEnergy`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.alignment.log_ratio import bottleneck
from rdt.alignment.models import DensityModel, Support
from rdt.alignment.objectives import rank_noised


@dataclass(frozen=True)
class EDA:
    """The fine-tuning objective; `reference` is the frozen behaviour, in eval mode."""

    reference: DensityModel
    alpha: float = 3.0  # of the labels
    beta: float = 1.0  # the inner KL coefficient
    t_min: float = 1e-3
    stratified: bool = False

    def __call__(
        self, model: DensityModel, batch: Support, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return rank_noised(
            lambda a_t, t, cond: self.beta * bottleneck(model, self.reference, a_t, t, cond),
            batch,
            self.reference.schedule,
            generator,
            label_scale=self.alpha,
            t_min=self.t_min,
            stratified=self.stratified,
        )
