"""Alignment losses as functions of tensors: they know no network, no noise and no data.

InfoNCA, CEP and EDA are one soft-label cross-entropy over K candidates, with different log-ratios (spec
alignment.md 8):

    method           log-ratio                         label
    CEP, QGPO        f(a_t, t, s)                      softmax_k(beta E)
    EDA              beta (f_pi - f_mu)(a_t, t, s)     softmax_k(alpha Q)
    InfoNCA          beta (log pi - log pi_ref)        softmax_k(r / T)

Shapes: rows are states or prompts, K candidates a row; what is a mean is one over rows. Where log-ratios come from is
said in `log_ratio.py`; temperatures, offsets and tie-breaks belong to whoever makes the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from rdt.diffusion.continuous import over


def soft_labels(value: Float[Tensor, "*row k"], scale: float = 1.0) -> Float[Tensor, "*row k"]:
    """softmax_k(scale * value): what each candidate of a row should weigh."""
    return (scale * value).softmax(dim=-1)


def contrastive(log_ratio: Float[Tensor, "*row k"], label: Float[Tensor, "*row k"]) -> Float[Tensor, ""]:
    """- mean over rows of sum_k label_k log softmax_k(log_ratio): InfoNCA, CEP and EDA.

    A constant added to a row's log-ratios changes nothing, so unknown normalisers may stay unknown.
    """
    return -(label * log_ratio.log_softmax(dim=-1)).sum(dim=-1).mean()


def nca(log_ratio: Float[Tensor, "*row k"], label: Float[Tensor, "*row k"]) -> Float[Tensor, ""]:
    """- mean sum_k label_k log sigmoid(R_k) - mean (1 / K) sum_k log sigmoid(-R_k); section 5.

    Each absolute ratio counts, so that the likelihood of a good candidate does not sink with the others'.
    """
    pulled = (label * logsigmoid(log_ratio)).sum(dim=-1)
    return -(pulled + logsigmoid(-log_ratio).mean(dim=-1)).mean()


def dpo_pair(winner: Float[Tensor, " pair"], loser: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """-log sigmoid(R_w - R_l) of log-ratio rewards, pair by pair: also InfoNCA of K = 2 at T -> 0."""
    return -logsigmoid(winner - loser)


def nca_pair(winner: Float[Tensor, " pair"], loser: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """-log sigmoid(R_w) - (log sigmoid(-R_w) + log sigmoid(-R_l)) / 2."""
    return -logsigmoid(winner) - (logsigmoid(-winner) + logsigmoid(-loser)) / 2


def biased_nca_pair(winner: Float[Tensor, " pair"], loser: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """-log sigmoid(R_w) - log sigmoid(-R_l)."""
    return -logsigmoid(winner) - logsigmoid(-loser)


PAIR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "DPO": dpo_pair,
    "InfoNCA": dpo_pair,
    "NCA": nca_pair,
    "biasedNCA": biased_nca_pair,
}

CcaKind = Literal["CCA", "DPO", "unlearning"]


def cca(
    positive: Float[Tensor, " row"],
    negative: Float[Tensor, " row"],
    beta: float = 0.02,
    lambda_: float = 1.0,
    same: Bool[Tensor, " row"] | None = None,
    kind: CcaKind = "CCA",
) -> Float[Tensor, ""]:
    """Condition contrastive alignment, and what it is compared with (section 6).

    `positive` and `negative` are log-ratios g of each row under its own condition and under another row's:

        CCA         - mean log sigmoid(beta g+) - mean m log sigmoid(+- beta g-)
        unlearning  - mean g+ -+ mean m g-
        DPO         - mean log sigmoid(beta (g+ - g-))

    with the lower sign and m = lambda. Where conditions are dropped, `same` marks the rows whose two conditions are one
    (dropped, or equal by chance): they are positives, with the upper sign and m = 1, and all is divided by
    max(lambda, 1). Without `same` no row is, and nothing is divided.
    """
    if kind == "DPO":
        if same is not None:
            raise ValueError("DPO compares two conditions of a row: it has no form for dropped ones, use CCA")
        return -logsigmoid(beta * (positive - negative)).mean()
    known = torch.zeros_like(negative, dtype=torch.bool) if same is None else same
    sign = torch.where(known, 1.0, -1.0).to(negative.dtype)
    weight = torch.where(known, 1.0, lambda_).to(negative.dtype)
    value: Callable[[Tensor], Tensor] = (lambda g: logsigmoid(beta * g)) if kind == "CCA" else (lambda g: g)
    loss = -value(positive).mean() - (weight * value(sign * negative)).mean()
    return loss if same is None else loss / max(lambda_, 1.0)


def energy_mse(f: Float[Tensor, "*row"], target: Float[Tensor, "*row"]) -> Float[Tensor, ""]:
    """mean (f - beta E)^2, a baseline of CEP: its optimum is the conditional mean, wrong for t > 0."""
    return (f - target).square().mean()


def energy_exponential_mse(
    f: Float[Tensor, "*row"],
    target: Float[Tensor, "*row"],
    clip: tuple[float, float],
    *,
    clip_prediction: bool = False,
) -> Float[Tensor, ""]:
    """mean (e^f - e^clip(target))^2 with target = beta (E - b), a baseline of CEP: right, but unstable.

    b is 1 in the published toy and the maximum over the support set in QGPO, which clips f as well.
    """
    predicted = f.clamp(*clip) if clip_prediction else f
    return (predicted.exp() - target.clamp(*clip).exp()).square().mean()


def behaviour_loss(
    eps: Float[Tensor, "*batch action"],
    noise: Float[Tensor, "*batch action"],
    mask: Float[Tensor, "*#batch action"] | None = None,
    event_ndim: int = 1,
) -> Float[Tensor, ""]:
    """E |eps_hat - eps|^2 = E |sigma score + eps|^2: summed over the axes of an action, mean over the batch (0.1)."""
    error = eps - noise if mask is None else mask * (eps - noise)
    return error.square().flatten(-event_ndim).sum(dim=-1).mean()


TimeWeight = Callable[[Tensor, Tensor], Tensor]
"""w(alpha_t, sigma_t), entry by entry."""

TIME_WEIGHTS: dict[str, TimeWeight] = {
    "sigma^2": lambda alpha, sigma: sigma**2,
    "1": lambda alpha, sigma: torch.ones_like(sigma),
    "alpha/sigma": lambda alpha, sigma: alpha / sigma,
}
"""Published weights of SRPO's noise levels; the first is its default."""


def unit_rms(
    gradient: Float[Tensor, "*batch action"], event_ndim: int = 1, epsilon: float = 1e-12
) -> Float[Tensor, "*batch action"]:
    """Divided by its root mean square over an action's axes; a gradient of zero stays zero."""
    axes = tuple(range(-event_ndim, 0))
    return gradient / (gradient.square().mean(dim=axes, keepdim=True).sqrt() + epsilon)


def srpo_surrogate(
    action: Float[Tensor, "*batch action"],
    eps: Float[Tensor, "*batch action"],
    noise: Float[Tensor, "*batch action"] | None,
    grad_q: Float[Tensor, "*batch action"],
    weight: Float[Tensor, "*batch"],
    beta: float,
    event_ndim: int = 1,
) -> Float[Tensor, ""]:
    """mean [ w(t) <eps_mu(a_t) - b, a> - beta <grad_a Q, a> ] of section 3.

    Its gradient in `action` is w (eps - b) - beta grad_q, over the number of rows; all else is constant. The baseline b
    is the noise that made a_t, which takes away variance and no mean; None is the published default, b = 0.
    """
    pull = over(weight, action) * (eps if noise is None else eps - noise) - beta * grad_q
    return (pull.detach() * action).flatten(-event_ndim).sum(dim=-1).mean()
