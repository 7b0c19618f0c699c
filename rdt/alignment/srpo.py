"""SRPO, score-regularised policy optimisation (Chen et al. 2024; spec alignment.md section 3).

A deterministic policy a = pi(s) climbs a critic and is held back by a KL that is averaged over noise levels,

    L = mean_s [ w(t) < eps_mu(a_t, t, s) - z , a >  -  beta < grad_a Q(s, a) , a > ],
    a_t = alpha_t a + sigma_t z,   t ~ U(0.02, 0.98),   dL/da = w(t) (eps_mu - z) - beta grad Q,

in which eps_mu and grad Q are constants. With w = sigma^2 it maximises

    beta Q(a) + E_t[ (sigma^3 / alpha) E_z log mu_t(a_t) ].

The published default leaves out z, which adds variance and no mean. Q is the mean of the twin target critics. The
result acts in one pass; it is a mode and no distribution, and where beta is small a smoothed one that may lie between
modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.losses import TIME_WEIGHTS, TimeWeight, srpo_surrogate, unit_rms
from rdt.alignment.models import BehaviorModel, Policy
from rdt.alignment.objectives import normal_like
from rdt.diffusion.continuous import draw_times, noised


@dataclass(frozen=True)
class SRPO:
    """The policy's objective; a batch is the conditions alone. The behaviour is in eval mode."""

    behaviour: BehaviorModel
    q: Callable[[Tensor, Any], Tensor]  # (action, cond) -> (*batch,)
    beta: float
    weight: TimeWeight = TIME_WEIGHTS["sigma^2"]
    subtract_noise: bool = True
    unit_q_gradient: bool = False  # AntMaze
    times: tuple[float, float] = (0.02, 0.98)
    stratified: bool = False
    mask: Float[Tensor, "*#batch action"] | None = None  # of the live dimensions

    def __call__(self, model: Policy, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        action = model.act(batch)
        event_ndim = action.ndim - 1
        grad_q = self._grad_q(action, batch)
        at, cond = action.detach(), batch
        t = draw_times(at.shape[:1], generator, *self.times, stratified=self.stratified, dtype=at.dtype)
        noise = normal_like(at, generator)
        noise = noise if self.mask is None else noise * self.mask
        with torch.no_grad():
            eps = self.behaviour.eps(noised(self.behaviour.schedule, at, t, noise), t, cond)
        if self.mask is not None:
            eps, grad_q = eps * self.mask, grad_q * self.mask
        if self.unit_q_gradient:
            grad_q = unit_rms(grad_q, event_ndim)
        weight = self.weight(self.behaviour.schedule.alpha(t), self.behaviour.schedule.sigma(t))
        baseline = noise if self.subtract_noise else None
        loss = srpo_surrogate(action, eps, baseline, grad_q, weight, self.beta, event_ndim)
        # how far the produced action is from what the behaviour would do: stop where it rises
        error = (eps - noise).square().flatten(1).mean(dim=1)
        return loss, {"behaviour_error": error.mean(), "grad_q_norm": grad_q.flatten(1).norm(dim=1).mean()}

    def _grad_q(self, action: Tensor, cond: Any) -> Tensor:
        with torch.enable_grad():
            at = action.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.q(at, cond).sum(), at)
        return gradient
