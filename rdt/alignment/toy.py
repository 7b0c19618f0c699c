"""Two-dimensional problems whose answer is known (spec alignment.md section 9.1).

    8gaussians                                              a mixture: tilted, noised and guided in closed form
    swissroll, rings, moons, checkerboard, 2spirals         the tilt by resampling a large pool

Every point has an energy in about [0, 1], larger is better; the target is the data's density times e^(beta E). The
metrics beside them compare samples with samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rdt.alignment.models import density_eps
from rdt.diffusion.continuous import LINEAR_VP, Schedule, over


class Points(NamedTuple):
    """Samples and what each is worth."""

    x: Float[Tensor, "n 2"]
    energy: Float[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """An isotropic Gaussian mixture as a `DensityModel`: every noised density is one, too.

    p_t(x) = sum_i w_i N(x; alpha_t m_i, alpha_t^2 s^2 + sigma_t^2).
    """

    means: Float[Tensor, "mode 2"]
    std: float
    log_weights: Float[Tensor, " mode"]
    energies: Float[Tensor, " mode"]
    schedule: Schedule = LINEAR_VP

    def tilted(self, beta: float) -> Mixture:
        """The density times e^(beta E): the same modes with other weights."""
        return replace(self, log_weights=(self.log_weights + beta * self.energies).log_softmax(dim=0))

    def sample(self, n: int, generator: torch.Generator) -> Points:
        mode = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, 2, generator=generator, device=generator.device, dtype=self.means.dtype)
        return Points(self.means[mode] + self.std * noise, self.energies[mode])

    def logp(
        self, a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], cond: Any = None
    ) -> Float[Tensor, "*batch"]:
        """log p_t, normalised."""
        return self._log_parts(a_t, t).logsumexp(dim=-1)

    def eps(
        self, a_t: Float[Tensor, "*batch 2"], t: Float[Tensor, "*lead"], cond: Any = None
    ) -> Float[Tensor, "*batch 2"]:
        """-sigma_t times the score: each mode's own, weighed by its share of the point."""
        share = self._log_parts(a_t, t).softmax(dim=-1)  # (*batch, mode)
        alpha, sigma = over(self.schedule.alpha(t), a_t), over(self.schedule.sigma(t), a_t)
        return sigma * (a_t - alpha * (share @ self.means)) / (alpha**2 * self.std**2 + sigma**2)

    def energy(self, beta: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
        """E_t(a_t) = log E[e^(beta E) | a_t], the guidance that makes the tilt."""
        target = self.tilted(beta)
        log_z = (self.log_weights + beta * self.energies).logsumexp(dim=0) - self.log_weights.logsumexp(dim=0)

        def intermediate(a_t: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return target.logp(a_t, t) - self.logp(a_t, t) + log_z

        return intermediate

    def mean_energy(self, beta: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
        """beta E[E | a_t], what regression of the energy converges to."""

        def mean(a_t: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return beta * (self._log_parts(a_t, t).softmax(dim=-1) @ self.energies)

        return mean

    def nearest_mode(self, x: Float[Tensor, "n 2"]) -> Int[Tensor, " n"]:
        return torch.cdist(x, self.means).argmin(dim=1)

    def mode_tv(self, x: Float[Tensor, "n 2"]) -> float:
        """Total variation between the shares of the samples that are nearest to each mode and its weight."""
        share = torch.bincount(self.nearest_mode(x), minlength=len(self.means)) / len(x)
        return float(0.5 * (share - self.log_weights.softmax(dim=0)).abs().sum())

    def stray(self, x: Float[Tensor, "n 2"], deviations: float = 5.0) -> float:
        """Share of the samples farther than so many deviations from every mode."""
        return float((torch.cdist(x, self.means).amin(dim=1) > deviations * self.std).float().mean())

    def _log_parts(self, a_t: Tensor, t: Tensor) -> Tensor:
        """log of each mode's part of p_t, (*batch, mode)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        alpha, sigma = over(alpha, a_t)[..., None, :], over(sigma, a_t)[..., None, :]  # (..., 1, 1)
        variance = alpha**2 * self.std**2 + sigma**2
        away = (a_t[..., None, :] - alpha * self.means).square().sum(dim=-1)  # (*batch, mode)
        return self.log_weights - 0.5 * away / variance[..., 0] - torch.log(2 * math.pi * variance[..., 0])


_DIRECTIONS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))  # N, NW, W, SW, S, SE, E, NE


def eight_gaussians(dtype: torch.dtype = torch.float32) -> Mixture:
    """Modes on a circle of radius 4 / 1.414 with deviation 0.5 / 1.414; mode i of 0 ... 7 has energy i / 7."""
    direction = torch.tensor(_DIRECTIONS, dtype=dtype)
    direction = direction / direction.norm(dim=1, keepdim=True)
    log_weights = torch.full((8,), -math.log(8), dtype=dtype)
    return Mixture(4 / 1.414 * direction, 0.5 / 1.414, log_weights, torch.arange(8, dtype=dtype) / 7)


def _swissroll(n: int, generator: torch.Generator) -> Points:
    """A spiral of one and a half turns; E = |x|^2 / 9."""
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, generator))
    x = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) / 5 + 0.2 * _normal(n, generator)
    return Points(x, x.square().sum(dim=1) / 9)


def _rings(n: int, generator: torch.Generator) -> Points:
    """Four circles of radius 0.75 ... 3; E = 0, 1/3, 2/3, 1 from the smallest on."""
    ring = torch.randint(4, (n,), generator=generator, device=generator.device)
    x = 0.75 * (ring + 1)[:, None] * _circle(2 * math.pi * _uniform(n, generator))
    return Points(x + 0.08 * _normal(n, generator), ring / 3)


def _moons(n: int, generator: torch.Generator) -> Points:
    """Two half circles that reach into each other; E = 0 on the upper one, 1 on the lower."""
    lower = torch.randint(2, (n,), generator=generator, device=generator.device)
    arc = _circle(math.pi * _uniform(n, generator))
    x = torch.where(lower[:, None] == 1, arc.new_tensor([1.0, 0.5]) - arc, arc) + 0.1 * _normal(n, generator)
    return Points(2 * x - x.new_tensor([1.0, 0.2]), lower.to(x.dtype))


def _checkerboard(n: int, generator: torch.Generator) -> Points:
    """Eight squares of four columns in [-4, 4]^2; E = 0 in the columns 0 and 2, 1 in 1 and 3."""
    column = torch.randint(4, (n,), generator=generator, device=generator.device)
    row = 2 * torch.randint(2, (n,), generator=generator, device=generator.device) + column % 2
    corner = 2 * torch.stack([column, row], dim=1) - 4
    within = torch.rand(n, 2, generator=generator, device=generator.device)
    return Points(corner + 2 * within, (column % 2).to(within.dtype))


def _two_spirals(n: int, generator: torch.Generator) -> Points:
    """Two arms of one and a half turns; E falls from 1 in the middle to 0 at their ends."""
    length = _uniform(n, generator).sqrt()
    side = 2 * torch.randint(2, (n,), generator=generator, device=generator.device)[:, None] - 1
    angle = 3 * math.pi * length
    arm = angle[:, None] * torch.stack([-angle.cos(), angle.sin()], dim=1)
    x = side * (arm + 0.5 * torch.rand(n, 2, generator=generator, device=generator.device)) / 3
    return Points(x + 0.1 * _normal(n, generator), 1 - length)


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, device=generator.device)


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=1)


TOY_SETS: dict[str, Callable[[int, torch.Generator], Points]] = {
    "8gaussians": lambda n, generator: eight_gaussians().sample(n, generator),
    "swissroll": _swissroll,
    "rings": _rings,
    "moons": _moons,
    "checkerboard": _checkerboard,
    "2spirals": _two_spirals,
}


def resampled(pool: Points, beta: float, n: int, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """Points of the tilt: the pool's, drawn with weights e^(beta E)."""
    weight = (beta * pool.energy.double()).softmax(dim=0)
    place = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    return pool.x[torch.searchsorted(weight.cumsum(dim=0), place).clamp(max=len(weight) - 1)]


def nearest_energy(x: Float[Tensor, "*batch 2"], pool: Points, rows: int = 4096) -> Float[Tensor, "*batch"]:
    """The energy of the pool's nearest point: a critic for sets that have no formula."""
    flat = x.reshape(-1, 2)
    near = [torch.cdist(part, pool.x).argmin(dim=1) for part in flat.split(rows)]
    return pool.energy[torch.cat(near)].reshape(x.shape[:-1])


def sliced_wasserstein(x: Float[Tensor, "n 2"], y: Float[Tensor, "n 2"], num_directions: int = 200) -> float:
    """Root mean square over fixed directions of the 2-Wasserstein distance of the projections."""
    angle = math.pi * torch.arange(num_directions, dtype=x.dtype, device=x.device) / num_directions
    directions = _circle(angle).T
    apart = (x @ directions).sort(dim=0).values - (y @ directions).sort(dim=0).values
    return math.sqrt(float(apart.square().mean()))


def guidance_error(
    learned: Callable[[Tensor, Tensor, Any], Tensor],
    exact: Callable[[Tensor, Tensor, Any], Tensor],
    at: Mixture,
    t: float,
    n: int,
    generator: torch.Generator,
    cond: Any = None,
) -> float:
    """E |grad f - grad E_t|^2 / E |grad E_t|^2 over exact samples of `at`, noised to t."""
    x = at.sample(n, generator).x
    time = torch.full((), t, dtype=x.dtype, device=x.device)
    noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    x_t = at.schedule.alpha(time) * x + at.schedule.sigma(time) * noise
    with torch.no_grad():  # the factor -sigma of both cancels
        found = density_eps(learned, at.schedule, x_t, time, cond)
        truth = density_eps(exact, at.schedule, x_t, time, cond)
    return float((found - truth).square().sum() / truth.square().sum())
