"""Losses of adversarial imitation as functions of tensors: GAIL, GAIL-DAC and their controlled versions.

A discriminator gives logits l with D = sigmoid(l), high on the expert's data (Tianshou's convention; Ho and Ermon 2016
use the opposite one). The controller leaves rewards alone: -log(1 - D) = softplus(l) in GAIL, log D - log(1 - D) = l in
GAIL-DAC. Spec imitation_rl.md 1.2; C-GAIL: Luo et al. 2024, arXiv 2402.16349.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def discriminator_loss(
    expert: Float[Tensor, " row"],
    policy: Float[Tensor, " other"],
    k: float = 0.0,
    weight: Float[Tensor, " row"] | None = None,
) -> Float[Tensor, ""]:
    """E_E[softplus(-l)] + E_pi[softplus(l)] + (k / 2) (E_E[(D - 1/2)^2] + E_pi[(D - 1/2)^2]), to be minimised.

    The controller is the sum over both sets and not their mean: the paper's text leaves a factor of 2 in k open. k = 0
    is the baseline to the bit. `weight` of the expert's rows multiplies their share of each mean (GAIL-DAC subsamples
    demonstrations but keeps every absorbing transition, which then stands for less).
    """
    loss = -_mean(logsigmoid(expert), weight) - logsigmoid(-policy).mean()
    if k == 0:
        return loss
    return loss + k / 2 * (_mean((expert.sigmoid() - 0.5) ** 2, weight) + ((policy.sigmoid() - 0.5) ** 2).mean())


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    expert: Float[Tensor, "row x"],
    policy: Float[Tensor, "row x"],
    share: Float[Tensor, "row 1"],
) -> Float[Tensor, ""]:
    """E (|grad_x l(x)| - 1)^2 at x = share * expert + (1 - share) * policy, shares uniform in [0, 1]."""
    x = (share * expert + (1 - share) * policy).detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return ((slope.norm(dim=1) - 1) ** 2).mean()


def _mean(value: Float[Tensor, " row"], weight: Float[Tensor, " row"] | None) -> Float[Tensor, ""]:
    return value.mean() if weight is None else (weight * value).mean()
