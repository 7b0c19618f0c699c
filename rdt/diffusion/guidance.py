"""Real-time chunking: a chunk is sampled so that it goes on from actions that are already decided.

Black, Galliker and Levine 2025 ("Real-time execution of action chunking flow policies", algorithm 1), in the form
for a network that predicts the clean action (spec robot_ros2.md 5.6 and 5.7). With Y the actions of the previous
chunk on the new one's time grid, W their weights and x_t = alpha x0 + sigma eps, a denoising step goes on from

    x0' = x0 + min(limit, sigma^2 / (alpha r^2)) J^T [W * (Y - x0)],
    J = d x0 / d x_t,   r^2 = sigma^2 / (alpha^2 + sigma^2)

instead of x0; alpha = tau, sigma = 1 - tau gives the paper's equations for flows. J^T is the network's own: a
vector-Jacobian product, one pass backward. Nothing here knows a network, a sampler or a robot.

J is proportional to the covariance of what the network still thinks possible: once it has settled for one way of doing
the task, the pull towards another is gone. `jacobian="identity"` leaves J out: no pass backward, a prefix that is met
whatever the network thinks, and rows between which only the next step mediates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

PrefixSchedule = Literal["exp", "linear", "ones", "zeros"]
Jacobian = Literal["network", "identity"]

LIMIT = 5.0
"""Largest guidance scale, the paper's beta for five steps; 1 / alpha has no bound at the noisiest step."""


class Guidance(NamedTuple):
    """What a sample is drawn towards, and how much each entry of it counts."""

    target: Float[Tensor, "batch horizon slot"]  # Y, in the network's space
    weights: Float[Tensor, "batch horizon #slot"]  # W, in [0, 1]; 0 where the target says nothing
    limit: float = LIMIT
    jacobian: Jacobian = "network"


def prefix_weights(
    horizon: int, delay: int, execute: int, schedule: PrefixSchedule = "exp"
) -> Float[Tensor, " horizon"]:
    """Weight W_i of the previous chunk's action for each row i of the new chunk (spec robot_ros2.md 5.6).

    Rows before `delay` will be executed before the new chunk arrives: 1. From row `horizon - execute` on there is no
    previous action: 0. Between them, with c_i = (horizon - execute - i) / (horizon - execute - delay + 1),

        exp: c_i (e^c_i - 1) / (e - 1)      linear: c_i      ones: 1      zeros: 0 (a hard prefix).

    A delay past the overlap freezes the overlap. Raises `ValueError` for counts that are no counts.
    """
    if schedule not in get_args(PrefixSchedule):
        raise ValueError(f"unknown prefix schedule {schedule!r}: there are {', '.join(get_args(PrefixSchedule))}")
    if horizon < 1 or delay < 0 or execute < 0:
        raise ValueError(f"horizon, delay and execute must be counts, got {horizon}, {delay} and {execute}")
    overlap = max(horizon - execute, 0)
    frozen = min(delay, overlap)
    row = torch.arange(horizon)
    c = ((overlap - row) / (overlap - frozen + 1)).clamp(0, 1)
    soft = {
        "exp": c * torch.expm1(c) / (math.e - 1),
        "linear": c,
        "ones": torch.ones(horizon),
        "zeros": torch.zeros(horizon),
    }[schedule]
    return torch.where(row < frozen, 1.0, torch.where(row < overlap, soft, 0.0))


def guidance_scale(alpha: float, sigma: float, limit: float = LIMIT) -> float:
    """min(limit, sigma^2 / (alpha r^2)) = min(limit, (alpha^2 + sigma^2) / alpha), also at sigma = 0 or alpha = 0."""
    return min(limit, (alpha**2 + sigma**2) / alpha) if alpha > 0 else limit


def guide_x0(
    predict_x0: Callable[[Float[Tensor, "batch horizon slot"]], Float[Tensor, "batch horizon slot"]],
    x_t: Float[Tensor, "batch horizon slot"],
    target: Float[Tensor, "batch horizon slot"],
    weights: Float[Tensor, "batch horizon #slot"],
    scale: float,
    jacobian: Jacobian = "network",
) -> Float[Tensor, "batch horizon slot"]:
    """The guided clean action of the equation above; `predict_x0` is asked once.

    With "network" it is differentiated once: also under `torch.no_grad`, and no graph is left. Not under
    `torch.inference_mode`: what `predict_x0` reads, keys and values for instance, must be ordinary tensors, which a
    backward pass may keep.
    """
    if jacobian == "identity":
        x0 = predict_x0(x_t)
        return x0 + scale * (weights * (target - x0))
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x0 = predict_x0(x_t)  # after the line above: else J would be the identity
        (pull,) = torch.autograd.grad(x0, x_t, weights * (target - x0.detach()))
    return x0.detach() + scale * pull
