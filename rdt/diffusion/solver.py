"""Samplers as tables of numbers, worked out once: DPM-Solver++, DDIM and DDPM.

A published sampler looks at the noise schedule and at the step index in every step. Neither depends on the data,
so a whole sampler is a row of six constants a step,

    x0  = ax * x + ap * prediction                  what the network's output says about the clean action
    x'  = cx * x + c0 * x0 + c1 * x0_before         the update
          + cn * fresh noise                        DDPM alone

and the loop asks nothing of the device: it can be captured in one CUDA graph. Guidance (`guidance.py`) puts another
x0 into the update and into the history.

| name          | method                                                                           | last timestep |
|---------------|----------------------------------------------------------------------------------|---------------|
| `dpm_solver++`| 2M, midpoint (Lu et al. 2022, Algorithm 2): the published one (spec rdt.md 5)    | > 0           |
| `ddim`        | deterministic (Song et al. 2021, eq. 12 with eta = 0)                            | 0             |
| `ddpm`        | ancestral, the smaller of the two variances (Ho et al. 2020; eq. 12, eta = 1)    | 0             |

Timesteps are spaced as diffusers does by default, and the numbers are those of its schedulers without clipping.
Any other of its schedulers runs by its class name, through `diffusers_sampler.py`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rdt.diffusion.denoiser import Denoiser
from rdt.diffusion.guidance import Guidance, guidance_scale, guide_x0
from rdt.diffusion.process import PredictionType


class SolverStep(NamedTuple):
    """One denoising step; the equations stand at the top of this file."""

    timestep: int  # at which the network is asked
    sigma: float  # noise-to-signal ratio sigma_t / alpha_t before the step
    ax: float  # `sample`: 0, `epsilon`: 1 / alpha
    ap: float  # `sample`: 1, `epsilon`: -sigma / alpha
    cx: float
    c0: float
    c1: float = 0.0  # 0 where the step is of first order
    cn: float = 0.0  # 0 where the step is deterministic


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
        ax, ap = _clean_action(prediction_type, alpha, sigma)
        steps.append(SolverStep(timestep, sigma / alpha, ax, ap, cx, a * (1 + half_inverse_r), -a * half_inverse_r))
    return tuple(steps)


def ddim_table(
    alphas_cumprod: Float[Tensor, " train_step"],
    num_steps: int = 5,
    prediction_type: PredictionType = "sample",
    eta: float = 0.0,
) -> tuple[SolverStep, ...]:
    """Constants of DDIM (eta = 0), of DDPM (eta = 1) and of what lies between, noisiest first.

    Timesteps are the multiples of `train_steps // num_steps` from the (num_steps - 1)-th down to 0. The noise eps in
    x is what x0 leaves of it; the update keeps a part of it and replaces eta's share by fresh noise:

        x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s fresh noise,   eps = (x - alpha x0) / sigma,
        s = eta (sigma' / sigma) sqrt(1 - alpha^2 / alpha'^2).

    The last step ends at sigma' = 0: its result is the last prediction of the clean action.
    """
    train_steps = len(alphas_cumprod)
    if not 1 <= num_steps <= train_steps:
        raise ValueError(f"the sampler takes 1 to {train_steps} steps with as many training steps, got {num_steps}")
    timesteps = [i * (train_steps // num_steps) for i in reversed(range(num_steps))]
    acp = [*alphas_cumprod.double()[timesteps].tolist(), 1.0]

    steps = []
    for timestep, now, then in zip(timesteps, acp, acp[1:], strict=False):
        alpha, sigma = math.sqrt(now), math.sqrt(1 - now)
        s = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
        cx = math.sqrt(1 - then - s**2) / sigma
        ax, ap = _clean_action(prediction_type, alpha, sigma)
        steps.append(SolverStep(timestep, sigma / alpha, ax, ap, cx, c0=math.sqrt(then) - cx * alpha, cn=s))
    return tuple(steps)


def ddpm_table(
    alphas_cumprod: Float[Tensor, " train_step"], num_steps: int = 5, prediction_type: PredictionType = "sample"
) -> tuple[SolverStep, ...]:
    """Constants of ancestral sampling, noisiest first."""
    return ddim_table(alphas_cumprod, num_steps, prediction_type, eta=1.0)


def _clean_action(prediction_type: PredictionType, alpha: float, sigma: float) -> tuple[float, float]:
    """ax and ap."""
    return {"sample": (0.0, 1.0), "epsilon": (1 / alpha, -sigma / alpha)}[prediction_type]


def clean_action(
    step: SolverStep, x: Float[Tensor, "batch horizon slot"], prediction: Float[Tensor, "batch horizon slot"]
) -> Float[Tensor, "batch horizon slot"]:
    """x0: the clean action that the network's output speaks of."""
    return step.ax * x + step.ap * prediction


def solver_step(
    step: SolverStep,
    x: Float[Tensor, "batch horizon slot"],
    x0: Float[Tensor, "batch horizon slot"],
    x0_before: Float[Tensor, "batch horizon slot"],
) -> Float[Tensor, "batch horizon slot"]:
    """x': the noisy action after one step, without fresh noise."""
    return step.cx * x + step.c0 * x0 + step.c1 * x0_before


def sample(
    denoiser: Denoiser,
    noise: Float[Tensor, "batch horizon slot"],
    table: tuple[SolverStep, ...],
    fresh_noise: Float[Tensor, "step batch horizon slot"] | None = None,
    guidance: Guidance | None = None,
) -> Float[Tensor, "batch horizon slot"]:
    """From noise at the first timestep of `table` to a clean action, in `noise.dtype` throughout.

    A table with fresh noise takes it from `fresh_noise`, or else draws it from the default generator of the device,
    which a CUDA graph may do too: each replay draws anew. `guidance` draws the action towards another one, with
    the network's Jacobian at the cost of a pass backward a step.

    Give float32 noise to a bfloat16 network too: the published sampler rounds x to the network's type between
    steps, which loses accuracy and saves nothing.
    """
    x, x0 = noise, torch.zeros_like(noise)
    for i, step in enumerate(table):
        x0_before, x0 = x0, _believed(denoiser, step, x, guidance)
        x = solver_step(step, x, x0, x0_before)
        if step.cn:
            x = x + step.cn * (torch.randn_like(x) if fresh_noise is None else fresh_noise[i])
    return x


def _believed(
    denoiser: Denoiser, step: SolverStep, x: Float[Tensor, "batch horizon slot"], guidance: Guidance | None
) -> Float[Tensor, "batch horizon slot"]:
    """The clean action that a step goes on from."""
    timesteps = torch.full((1,), step.timestep, device=x.device)

    def predict_x0(x: Tensor) -> Tensor:
        return clean_action(step, x, denoiser(x, timesteps).to(x.dtype))

    if guidance is None:
        return predict_x0(x)
    alpha = 1 / math.hypot(1, step.sigma)  # of alpha^2 + sigma^2 = 1, from sigma / alpha
    scale = guidance_scale(alpha, step.sigma * alpha, guidance.limit)
    return guide_x0(predict_x0, x, guidance.target, guidance.weights, scale, guidance.jacobian)


class Sampler(Protocol):
    """From noise to a clean action by asking a denoiser; what a policy samples with."""

    def __call__(
        self, denoiser: Denoiser, noise: Float[Tensor, "batch horizon slot"], guidance: Guidance | None = None
    ) -> Float[Tensor, "batch horizon slot"]: ...


@dataclass(frozen=True)
class TableSampler:
    """A `Sampler` without host synchronisation, which a CUDA graph can hold."""

    table: tuple[SolverStep, ...]

    def __call__(
        self, denoiser: Denoiser, noise: Float[Tensor, "batch horizon slot"], guidance: Guidance | None = None
    ) -> Float[Tensor, "batch horizon slot"]:
        return sample(denoiser, noise, self.table, guidance=guidance)


TABLES: dict[str, Callable[..., tuple[SolverStep, ...]]] = {
    "dpm_solver++": dpm_solver_table,
    "ddim": ddim_table,
    "ddpm": ddpm_table,
}

DEFAULT_SAMPLER = "dpm_solver++"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that a typo most likely meant."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def make_sampler(
    name: str, alphas_cumprod: Float[Tensor, " train_step"], num_steps: int, prediction_type: PredictionType
) -> Sampler:
    """A sampler of the table above, or the class name of one of diffusers' schedulers (the slow road)."""
    if name in TABLES:
        return TableSampler(TABLES[name](alphas_cumprod, num_steps, prediction_type))
    if not name.endswith("Scheduler"):
        raise ValueError(
            f"unknown sampler {name!r}: did you mean {nearest(name, TABLES)!r}? There are {', '.join(TABLES)}; the "
            "class name of a diffusers scheduler, for instance 'UniPCMultistepScheduler', works too"
        )
    from rdt.diffusion.diffusers_sampler import DiffusersSampler

    return DiffusersSampler(name, len(alphas_cumprod), num_steps, prediction_type)
