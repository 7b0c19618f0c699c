"""Where log pi(a|s) - log pi_ref(a|s) comes from: three estimators, one each kind of model (spec alignment.md 5 and 8).

    sequence          an autoregressive model: the sum over tokens, exact
    denoising_error   a diffusion model: the difference of two evidence lower bounds, from their errors on shared noise
    bottleneck        a scalar diffusion network: exact at each noise level up to a constant of (s, t)

Near-equal models cancel, so differences are taken in float32 or wider whatever the networks compute in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rdt.alignment.models import BehaviorModel, DensityModel
from rdt.diffusion.continuous import noised

IGNORED = -100
"""Label of a token that does not count: the prompt, or padding."""


def sequence_logp(
    logits: Float[Tensor, "*batch token vocabulary"],
    labels: Int[Tensor, "*batch token"],
    shift: int = 1,
    ignore_index: int = IGNORED,
) -> Float[Tensor, "*batch"]:
    """Sum over tokens of log p(token).

    The logits at position i are about the label at i + shift: 1 where a model reads the tokens that it predicts, 0
    where it is asked for position i itself.
    """
    kept = labels[..., shift:]
    counted = kept != ignore_index
    logp = _wide(logits[..., : logits.shape[-2] - shift, :]).log_softmax(dim=-1)
    found = logp.gather(-1, kept.where(counted, 0)[..., None])[..., 0]
    return found.where(counted, 0.0).sum(dim=-1)


def sequence(
    logits: Float[Tensor, "*batch token vocabulary"],
    reference_logits: Float[Tensor, "*batch token vocabulary"],
    labels: Int[Tensor, "*batch token"],
    shift: int = 1,
    ignore_index: int = IGNORED,
) -> Float[Tensor, "*batch"]:
    """The log-ratio of whole sequences; no gradient reaches the reference."""
    ours = sequence_logp(logits, labels, shift, ignore_index)
    return ours - sequence_logp(reference_logits.detach(), labels, shift, ignore_index)


def denoising_error(
    policy: BehaviorModel,
    reference: BehaviorModel,
    actions: Float[Tensor, "row *k action"],
    cond: Any,
    times: Sequence[Float[Tensor, " row"]],
    noises: Sequence[Float[Tensor, "row *#k action"]],
    *,
    weight: Callable[[Tensor], Tensor] = torch.ones_like,
    mask: Float[Tensor, "row *#k action"] | None = None,
    event_ndim: int = 1,
) -> Float[Tensor, " row *k"]:
    """g = - mean over draws of W(t) [ |m (eps - eps_pi)|^2 - |m (eps - eps_ref)|^2 ].

    Unbiased for an ELBO difference, but the sigmoid or softmax around it is not linear: give several draws (t, eps),
    which are averaged in here, and the same ones to all candidates of a row and to both of CCA's conditions. W
    depends on t alone; it grows as 1 / sigma^2 where it is to be the likelihood's own.
    """
    total: Tensor | None = None
    for t, noise in zip(times, noises, strict=True):
        noise = noise.expand_as(actions)
        a_t = noised(policy.schedule, actions, t, noise)
        with torch.no_grad():
            reference_error = _squared_error(reference.eps(a_t, t, cond), noise, mask, event_ndim)
        error = _squared_error(policy.eps(a_t, t, cond), noise, mask, event_ndim)
        scale = weight(_wide(t))
        g = -scale.reshape(scale.shape + (1,) * (error.ndim - scale.ndim)) * (error - reference_error)
        total = g if total is None else total + g
    if total is None:
        raise ValueError("a denoising-error ratio needs at least one draw of (t, eps), got none")
    return total / len(times)


def bottleneck(
    policy: DensityModel,
    reference: DensityModel,
    a_t: Float[Tensor, "*batch action"],
    t: Float[Tensor, "*lead"],
    cond: Any,
) -> Float[Tensor, "*batch"]:
    """f_pi(a_t, t, s) - f_mu(a_t, t, s), which is log pi_t - log mu_t up to a constant of (s, t)."""
    with torch.no_grad():
        of_reference = _wide(reference.logp(a_t, t, cond))
    return _wide(policy.logp(a_t, t, cond)) - of_reference


def _squared_error(eps: Tensor, noise: Tensor, mask: Tensor | None, event_ndim: int) -> Tensor:
    error = _wide(eps) - _wide(noise)
    error = error if mask is None else error * mask
    return error.square().flatten(-event_ndim).sum(dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
