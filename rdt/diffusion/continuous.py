"""Noise schedules in continuous time, and the discrete one of RDT with the same face (spec alignment.md 0.1 and 8).

A schedule says for t in [0, 1] what is left of the signal and what there is of noise,

    a_t = alpha_t a + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1,   lambda_t = log(alpha_t / sigma_t),

so that whoever is written against it serves a toy network and RDT alike. Times may have any shape; where they belong to
actions, theirs is a leading shape of the actions': one time a row, or one for all candidates of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Schedule(Protocol):
    """The scales of signal and noise, entry by entry, in the type and on the device of `t`."""

    def alpha(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]: ...

    def sigma(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]: ...

    def half_log_snr(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """lambda_t, which falls as t grows."""
        ...


class VariancePreserving(ABC):
    """A `Schedule` by log alpha_t alone; sigma keeps its digits where alpha is nearly 1."""

    @abstractmethod
    def log_alpha(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]: ...

    def alpha(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        return self.log_alpha(t).exp()

    def sigma(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def half_log_snr(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))


@dataclass(frozen=True)
class LinearVP(VariancePreserving):
    """log alpha_t = -(beta_1 - beta_0) t^2 / 4 - beta_0 t / 2, of SfBC, CEP, SRPO and EDA."""

    beta_0: float = 0.1
    beta_1: float = 20.0

    def log_alpha(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        return -(self.beta_1 - self.beta_0) / 4 * t**2 - self.beta_0 / 2 * t


LINEAR_VP = LinearVP()
"""The published forward process."""


@dataclass(frozen=True, eq=False)
class DiscreteVP(VariancePreserving):
    """A table of alpha_t^2 over training steps 0 ... n - 1, at t = step / (n - 1); log alpha is linear between."""

    alphas_cumprod: Float[Tensor, " step"]
    _log_alphas: Float[Tensor, " step"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_log_alphas", 0.5 * self.alphas_cumprod.double().log())

    def timesteps(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """What RDT's network calls these times: training steps, between two of them too."""
        return t * (len(self.alphas_cumprod) - 1)

    def log_alpha(self, t: Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        table = self._log_alphas.to(t.device)
        position = self.timesteps(t.double())
        below = position.floor().clamp(0, len(table) - 2)
        left, right = table[below.long()], table[below.long() + 1]
        return (left + (position - below) * (right - left)).to(t.dtype)


def over(t: Tensor, actions: Tensor) -> Tensor:
    """Trailing axes of size one, so that numbers of a leading shape of `actions` multiply them."""
    return t.reshape(t.shape + (1,) * (actions.ndim - t.ndim))


def noised(
    schedule: Schedule,
    actions: Float[Tensor, "*batch action"],
    t: Float[Tensor, "*lead"],
    noise: Float[Tensor, "*batch action"],
) -> Float[Tensor, "*batch action"]:
    """a_t = alpha_t a + sigma_t eps."""
    return over(schedule.alpha(t), actions) * actions + over(schedule.sigma(t), actions) * noise


def draw_times(
    shape: tuple[int, ...],
    generator: torch.Generator,
    low: float,
    high: float = 1.0,
    *,
    stratified: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """t ~ U(low, high) on the generator's device. Stratified: one in each of as many equal pieces, in random order."""
    u = torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
    if stratified:
        count = u.numel()
        order = torch.randperm(count, generator=generator, device=generator.device).reshape(shape)
        u = (order + u) / count
    return low + (high - low) * u
