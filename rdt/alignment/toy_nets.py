"""Small networks for two-dimensional problems that reach the floor in a minute of one core.

The published ones (`nets.py`) are 10 times as large and want 371k steps. What makes these learn faster:

- Points come in the coordinates in which their noised density is smooth, u = gain alpha_t x / (alpha_t^2 + sigma_t^2):
  the shares of a mixture's modes depend on x through alpha_t x / (alpha_t^2 s^2 + sigma_t^2) alone. Where all is noise,
  u is nearly constant, and so is what a network says, as it should.
- Time comes as a few smooth functions instead of frequencies up to 30 and more.
- Outputs of known size: the noise is sigma_t x + alpha_t v with v the network's, a density begins as a Gaussian, and
  an energy is beta times a number of the size of E.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rdt.alignment.models import density_eps
from rdt.alignment.nets import MLP, Scheduled, lead
from rdt.diffusion.continuous import LINEAR_VP, Schedule, over

GAIN = 3.0
DENSITY_SCALE = 4.0  # of a network's unit in a log-density
TIME_FEATURES = 16
BETA_FEATURES = 4
MAX_BETA = 20.0  # of an energy that is conditioned on beta


def time_features(t: Float[Tensor, "*lead"], schedule: Schedule) -> Float[Tensor, "*lead feature"]:
    """Waves of t and of lambda_t, alpha_t and sigma_t."""
    of_t = math.pi * t[..., None] * torch.arange(1, 5, dtype=t.dtype, device=t.device)
    of_lambda = schedule.half_log_snr(t.clamp(min=1e-4))[..., None] / 5
    of_lambda = of_lambda * torch.arange(1, 4, dtype=t.dtype, device=t.device)
    scales = [schedule.alpha(t)[..., None], schedule.sigma(t)[..., None]]
    return torch.cat([of_t.sin(), of_t.cos(), of_lambda.sin(), of_lambda.cos(), *scales], dim=-1)


def beta_features(beta: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead feature"]:
    """Resolves small temperatures' inverses as well as large ones."""
    parts = [beta / (MAX_BETA / 2) - 1, beta.log1p() - 2, (-beta / 3).exp(), (-beta / 10).exp()]
    return torch.cat(parts, dim=-1)


def inputs(a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], schedule: Schedule) -> Float[Tensor, "*batch f"]:
    """u and the features of time."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    u = a_t * over(GAIN * alpha / (alpha**2 + sigma**2), a_t)
    return torch.cat([u, lead(time_features(t, schedule), a_t.shape[:-1])], dim=-1)


class ToyNoise(Scheduled):
    """A behaviour model that predicts the noise."""

    def __init__(self, width: int = 128, depth: int = 3, schedule: Schedule | None = None) -> None:
        super().__init__(schedule)
        self.net = MLP(2 + TIME_FEATURES, 2, [width] * depth)

    def eps(self, a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], cond: Any = None) -> Tensor:
        v = self.net(inputs(a_t, t, self.schedule))
        return over(self.schedule.sigma(t), a_t) * a_t + over(self.schedule.alpha(t), a_t) * v


class ToyDensity(Scheduled):
    """A behaviour model that is a density: EDA's bottleneck, begun as N(0, I)."""

    def __init__(self, width: int = 128, depth: int = 3, schedule: Schedule | None = None) -> None:
        super().__init__(schedule)
        self.net = MLP(2 + TIME_FEATURES, 1, [width] * depth)

    def logp(self, a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], cond: Any = None) -> Tensor:
        return DENSITY_SCALE * self.net(inputs(a_t, t, self.schedule))[..., 0] - a_t.square().sum(dim=-1) / 2

    def eps(self, a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], cond: Any = None) -> Tensor:
        return density_eps(self.logp, self.schedule, a_t, t, cond)


class ToyEnergy(nn.Module):
    """An intermediate energy of one beta, or of the beta that the condition (*lead, 1) says."""

    def __init__(
        self, beta: float | None = None, width: int = 96, depth: int = 4, schedule: Schedule = LINEAR_VP
    ) -> None:
        super().__init__()
        self.beta, self.schedule = beta, schedule
        self.net = MLP(2 + TIME_FEATURES + (BETA_FEATURES if beta is None else 0), 1, [width] * depth)

    def forward(self, a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], cond: Any = None) -> Tensor:
        x, batch = inputs(a_t, t, self.schedule), a_t.shape[:-1]
        if self.beta is not None:
            return self.beta * self.net(x)[..., 0]
        features = lead(beta_features(cond), batch)
        return lead(cond, batch)[..., 0] * self.net(torch.cat([x, features], dim=-1))[..., 0]

    def at(self, beta: float) -> ToyEnergyAt:
        """The energy of one temperature, for guidance."""
        return ToyEnergyAt(self, beta)


class ToyEnergyAt:
    """A conditioned energy with its beta bound."""

    def __init__(self, energy: ToyEnergy, beta: float) -> None:
        self.energy, self.beta = energy, beta

    def __call__(self, a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], cond: Any = None) -> Tensor:
        return self.energy(a_t, t, a_t.new_full((1,), self.beta))
