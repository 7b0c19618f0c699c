"""DPM-Solver++ (2M, midpoint) as a table of numbers, worked out once (Lu et al. 2022, Algorithm 2).

The published sampler (spec rdt.md section 5) looks at the noise schedule and at the step index in every step.
Neither depends on the data, so the whole sampler is a row of five constants a step,

    x0  = ax * x + ap * prediction                  what the network's output says about the clean action
    x'  = cx * x + c0 * x0 + c1 * x0_before         the update

and the loop has no branch and no synchronisation with the device: it can be captured in one CUDA graph.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rdt.diffusion.denoiser import Denoiser
from rdt.diffusion.process import PredictionType


class SolverStep(NamedTuple):
    """One denoising step; the equations stand at the top of this file."""

    timestep: int  # at which the network is asked
    sigma: float  # noise-to-signal ratio sigma_t / alpha_t before the step
    ax: float  # `sample`: 0, `epsilon`: 1 / alpha
    ap: float  # `sample`: 1, `epsilon`: -sigma / alpha
    cx: float
    c0: float
    c1: float  # 0 in the first and in the last step, which are of first order


def dpm_solver_table(
    alphas_cumprod: Float[Tensor, " train_step"],
    num_steps: int = 5,
    prediction_type: PredictionType = "sample",
) -> tuple[SolverStep, ...]:
    """Constants of all denoising steps, noisiest first.

    Timesteps are `round(linspace(0, last, num_steps + 1))` backwards, without the 0. Primes mark what holds
    after the step; with lambda = ln(alpha / sigma), h = lambda' - lambda and r = h_before / h the update is

        x' = (sigma' / sigma) x + a D,  a = alpha' (1 - e^-h),  D = x0 + (x0 - x0_before) / 2r.

    The last step ends at sigma' = 0, where a = 1: its result is the last prediction of the clean action.
    """
    last = len(alphas_cumprod) - 1
    if not 1 <= num_steps <= last:
        raise ValueError(f"the sampler takes 1 to {last} steps with {last + 1} training steps, got {num_steps}")
    timesteps = np.linspace(0, last, num_steps + 1).round().astype(int)[:0:-1].tolist()
    acp = alphas_cumprod.double()[timesteps].tolist()
    alphas = [math.sqrt(a) for a in acp] + [1.0]
    sigmas = [math.sqrt(1 - a) for a in acp] + [0.0]
    lambdas = [math.log(a / s) for a, s in zip(alphas[:-1], sigmas[:-1], strict=True)]

    steps = []
    for i, timestep in enumerate(timesteps):
        alpha, sigma = alphas[i], sigmas[i]
        cx = sigmas[i + 1] / sigma
        a = alphas[i + 1] - alpha * cx  # = alpha' (1 - e^-h), without the infinite h of the last step
        half_inverse_r = 0.0
        if 0 < i < num_steps - 1:
            half_inverse_r = 0.5 * (lambdas[i + 1] - lambdas[i]) / (lambdas[i] - lambdas[i - 1])
        ax, ap = {"sample": (0.0, 1.0), "epsilon": (1 / alpha, -sigma / alpha)}[prediction_type]
        steps.append(SolverStep(timestep, sigma / alpha, ax, ap, cx, a * (1 + half_inverse_r), -a * half_inverse_r))
    return tuple(steps)


def solver_step(
    step: SolverStep,
    x: Float[Tensor, "batch horizon slot"],
    prediction: Float[Tensor, "batch horizon slot"],
    x0_before: Float[Tensor, "batch horizon slot"],
) -> tuple[Float[Tensor, "batch horizon slot"], Float[Tensor, "batch horizon slot"]]:
    """The noisy action after one step, and the clean action that the step believed in."""
    x0 = step.ax * x + step.ap * prediction
    return step.cx * x + step.c0 * x0 + step.c1 * x0_before, x0


def sample(
    denoiser: Denoiser, noise: Float[Tensor, "batch horizon slot"], table: tuple[SolverStep, ...]
) -> Float[Tensor, "batch horizon slot"]:
    """From noise at the first timestep of `table` to a clean action, in `noise.dtype` throughout.

    Give float32 noise to a bfloat16 network too: the published sampler rounds x to the network's type between
    steps, which loses accuracy and saves nothing.
    """
    x, x0 = noise, torch.zeros_like(noise)
    for step in table:
        timesteps = torch.full((1,), step.timestep, device=x.device)
        x, x0 = solver_step(step, x, denoiser(x, timesteps).to(x.dtype), x0)
    return x
