"""The forward process and what a network is trained to undo (spec rdt.md section 5)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from rdt.diffusion.schedule import alpha_sigma

PredictionType = Literal["sample", "epsilon"]
"""What the network's output means: the clean action (published), or the noise."""


def q_sample(
    action: Float[Tensor, "batch horizon slot"],
    noise: Float[Tensor, "batch horizon slot"],
    timesteps: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " step"],
) -> Float[Tensor, "batch horizon slot"]:
    """Noisy actions `x_t = alpha_t x_0 + sigma_t eps`, one timestep a sample."""
    alpha, sigma = alpha_sigma(alphas_cumprod, timesteps)
    return alpha[:, None, None] * action + sigma[:, None, None] * noise


def training_target(
    prediction_type: PredictionType,
    action: Float[Tensor, "batch horizon slot"],
    noise: Float[Tensor, "batch horizon slot"],
) -> Float[Tensor, "batch horizon slot"]:
    """What the prediction is compared with: `x_0` for `sample`, `eps` for `epsilon`."""
    return {"sample": action, "epsilon": noise}[prediction_type]
