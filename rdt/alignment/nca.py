"""InfoNCA and NCA, noise contrastive alignment (Chen et al. 2024; spec alignment.md section 5).

K candidates of a row with scalar rewards r_k, and R_k = beta (log pi(y_k | x) - log pi_ref(y_k | x)):

    labels   w_k = softmax_k(r_k / T)
    InfoNCA  L = - mean_x sum_k w_k log softmax_k(R_k)
    NCA      L = - mean_x sum_k w_k log sigmoid(R_k)  -  mean_x (1 / K) sum_k log sigmoid(-R_k)

InfoNCA binds differences only, so all likelihoods may sink together; NCA binds each one. DPO is InfoNCA with K = 2
and T -> 0. The published recipe adds 0.01 to the first score so that ties break as in its data, and T = 1e-4 makes its
labels one-hot: both are the caller's settings here.

For a sequence model, `preference_loss` of `log_ratio.sequence`; for a diffusion policy, the objective `DiffusionNCA`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.log_ratio import denoising_error
from rdt.alignment.losses import contrastive, nca, soft_labels
from rdt.alignment.models import BehaviorModel, Support
from rdt.alignment.objectives import normal_like
from rdt.diffusion.continuous import draw_times

Kind = Literal["InfoNCA", "NCA"]
KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"InfoNCA": contrastive, "NCA": nca}


def preference_loss(
    log_ratio: Float[Tensor, "row k"],
    reward: Float[Tensor, "row k"],
    *,
    beta: float = 0.01,
    temperature: float = 1.0,
    first_offset: float = 0.0,
    kind: Kind = "NCA",
) -> Float[Tensor, ""]:
    """The loss above, of log-ratios without beta. `first_offset` is added to the first candidate's reward."""
    offset = torch.zeros_like(reward)
    offset[..., 0] = first_offset
    return KINDS[kind](beta * log_ratio, soft_labels(reward + offset, 1 / temperature))


@dataclass(frozen=True)
class DiffusionNCA:
    """For diffusion models: log-ratios are differences of denoising errors, averaged over `draws` of (t, eps).

    A ratio is summed over all live dimensions of an action, so beta of language models does not transfer: choose it so
    that the median of |beta g| (a metric) is near 1.
    """

    reference: BehaviorModel
    beta: float = 0.01
    temperature: float = 1.0
    kind: Kind = "NCA"
    draws: int = 4
    t_min: float = 1e-3
    t_max: float = 1.0
    weight: Callable[[Tensor], Tensor] = torch.ones_like
    mask: Float[Tensor, " row #k *action"] | None = None

    def __call__(
        self, model: BehaviorModel, batch: Support, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        actions = batch.actions
        rows = actions.shape[:1]
        one = actions[:, :1]  # all candidates of a row see the same draws
        times = [draw_times(rows, generator, self.t_min, self.t_max, dtype=actions.dtype) for _ in range(self.draws)]
        noises = [normal_like(one, generator) for _ in range(self.draws)]
        g = denoising_error(
            model,
            self.reference,
            actions,
            batch.cond,
            times,
            noises,
            weight=self.weight,
            mask=self.mask,
            event_ndim=actions.ndim - 2,
        )
        loss = preference_loss(g, batch.value, beta=self.beta, temperature=self.temperature, kind=self.kind)
        best = g.detach().gather(1, batch.value.argmax(dim=1, keepdim=True))
        return loss, {"median_beta_g": (self.beta * g.detach()).abs().median(), "g_of_best": best.mean()}
