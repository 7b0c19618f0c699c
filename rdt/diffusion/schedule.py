"""The noise schedule of RDT: squared cosine, in discrete time (spec rdt.md section 5).

A noisy action is `x_t = alpha_t x_0 + sigma_t eps` with `alpha_t^2 + sigma_t^2 = 1`; all of the schedule is
the one table `alphas_cumprod[t] = alpha_t^2`. Other schedules are left out: no RDT checkpoint uses one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_BETA = 0.999  # keeps the last step, where alpha_bar reaches 0, finite


def squared_cosine_alphas_cumprod(num_steps: int = 1000) -> Float[Tensor, " step"]:
    """Signal variance `alpha_t^2` for t = 0 ... num_steps - 1, float32 on the CPU.

    alpha_bar(u) = cos^2((u + 0.008) / 1.008 * pi / 2),
    beta_t = min(1 - alpha_bar((t + 1) / n) / alpha_bar(t / n), 0.999),
    alphas_cumprod[t] = prod_{s <= t} (1 - beta_s), its factors rounded to float32 as in the published code.
    """
    # always real numbers on the CPU, even where a model is built on the meta device
    u = torch.arange(num_steps + 1, dtype=torch.float64, device="cpu") / num_steps
    alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_BETA).float()
    return (1 - betas).cumprod(dim=0)


def alpha_sigma(
    alphas_cumprod: Float[Tensor, " step"], timesteps: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Scale of the signal and of the noise: `alpha_t = sqrt(acp_t)`, `sigma_t = sqrt(1 - acp_t)`."""
    acp = alphas_cumprod[timesteps]
    return acp.sqrt(), (1 - acp).sqrt()
