"""The published networks, with conditions as arguments (spec alignment.md 1 to 4).

    ScoreUNet        SfBC, QGPO behaviour    1,634,294 numbers at 17 states and 6 actions
    ResNetEps        SRPO behaviour          1,840,934 published; less 3 layers of 65,792 that nothing reads
    Bottleneck       EDA, a scalar           1,847,702 published; less the same layers
    ToyScore         CEP in 2-D
    EnergyMLP        CEP in 2-D and QGPO, a scalar
    DeterministicPolicy  SRPO's student      71,942
    GaussianPolicy       behaviour cloning and advantage-weighted regression

Counts hold the frozen frequencies of the time features. Times and conditions have a leading shape of the actions' batch
(`models.py`), so K candidates of a state share both without copies. Torch's own initialisation throughout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rdt.alignment.models import density_eps
from rdt.diffusion.continuous import LINEAR_VP, Schedule


def lead(x: Float[Tensor, "*lead feature"], batch: Sequence[int]) -> Float[Tensor, "*batch feature"]:
    """Features of a leading shape of `batch`, seen by all that follow; nothing is copied."""
    axes = len(batch) - (x.ndim - 1)
    return x.reshape(*x.shape[:-1], *(1,) * axes, x.shape[-1]).expand(*batch, x.shape[-1])


class MLP(nn.Sequential):
    """Linear layers with an activation between."""

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int], activation: type[nn.Module] = nn.SiLU) -> None:
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), activation()]
        super().__init__(*layers, nn.Linear(widths[-1], outputs))


class TimeFeatures(nn.Module):
    """[sin 2 pi t W, cos 2 pi t W] with frozen W ~ N(0, scale^2), saved with the weights (section 0.3)."""

    def __init__(self, dim: int, scale: float = 30.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(dim // 2) * scale)
        self.frequencies: Tensor

    def forward(self, t: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead feature"]:
        angle = 2 * math.pi * t[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Scheduled(nn.Module):
    """A network that knows the forward process it was made for; a schedule has no weights."""

    def __init__(self, schedule: Schedule | None) -> None:
        super().__init__()
        self.schedule: Schedule = schedule or LINEAR_VP


class _UNetBlock(nn.Module):
    """h = SiLU(Lin x) + Lin(SiLU e);  SiLU(Lin h) + skip(x)."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, outputs)
        self.embedding = nn.Linear(embedding, outputs)
        self.second = nn.Linear(outputs, outputs)
        self.skip = nn.Linear(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = nn.functional.silu(self.first(x)) + self.embedding(nn.functional.silu(e))
        return nn.functional.silu(self.second(h)) + self.skip(x)


class ScoreUNet(Scheduled):
    """Behaviour of SfBC and QGPO. Its last layer, divided by sigma_t, is the score; so eps is minus that layer."""

    def __init__(
        self,
        action_dim: int,
        state_dim: int,
        schedule: Schedule | None = None,
        widths: tuple[int, int, int] = (512, 256, 128),
    ) -> None:
        super().__init__(schedule)
        wide, middle, narrow = widths
        self.time = nn.Sequential(TimeFeatures(32), nn.Linear(32, 32))
        self.state = nn.Sequential(nn.Linear(state_dim, 32), nn.SiLU())
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))
        self.down1 = _UNetBlock(action_dim, wide, 128)
        self.down2 = _UNetBlock(wide, middle, 128)
        self.down3 = _UNetBlock(middle, narrow, 128)
        self.middle = _UNetBlock(narrow, narrow, 128)
        self.up2 = _UNetBlock(2 * narrow, middle, 128)
        self.up1 = _UNetBlock(2 * middle, wide, 128)
        self.out = nn.Linear(2 * wide, action_dim)

    def eps(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Tensor) -> Float[Tensor, "*batch action"]:
        batch = a_t.shape[:-1]
        e = self.embed(torch.cat([lead(self.state(cond), batch), lead(self.time(t), batch)], dim=-1))
        d1 = self.down1(a_t, e)  # (*batch, wide)
        d2 = self.down2(d1, e)  # (*batch, middle)
        d3 = self.down3(d2, e)  # (*batch, narrow)
        u2 = self.up2(torch.cat([self.middle(d3, e), d3], dim=-1), e)  # (*batch, middle)
        u1 = self.up1(torch.cat([u2, d2], dim=-1), e)  # (*batch, wide)
        return -self.out(torch.cat([u1, d1], dim=-1))

    def forward(self, a_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.eps(a_t, t, cond)


class _ResNet(nn.Module):
    """Linear -> blocks of [dropout, LayerNorm, Linear 4x, activation, Linear, + skip] -> activation -> Linear."""

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: int, activation: type[nn.Module], dropout: float
    ) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout),
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                activation(),
                nn.Linear(4 * width, width),
            )
            for _ in range(blocks)
        )
        self.last = nn.Sequential(activation(), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class ResNetEps(Scheduled):
    """SRPO's behaviour: it predicts the noise. Put it into eval mode where it is a reference: it has dropout."""

    def __init__(
        self,
        action_dim: int,
        state_dim: int,
        schedule: Schedule | None = None,
        width: int = 256,
        blocks: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(schedule)
        self.time = nn.Sequential(TimeFeatures(64), nn.Linear(64, 128), nn.Mish(), nn.Linear(128, 128))
        self.net = _ResNet(action_dim + state_dim + 128, action_dim, width, blocks, nn.Mish, dropout)

    def eps(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Tensor) -> Float[Tensor, "*batch action"]:
        batch = a_t.shape[:-1]
        return self.net(torch.cat([a_t, lead(cond, batch), lead(self.time(t), batch)], dim=-1))

    def forward(self, a_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.eps(a_t, t, cond)


class Bottleneck(Scheduled):
    """EDA's scalar network: f = log mu_t(a_t | s) up to a constant of (s, t), and eps = - sigma_t grad f."""

    def __init__(
        self,
        action_dim: int,
        state_dim: int,
        schedule: Schedule | None = None,
        width: int = 256,
        blocks: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(schedule)
        self.action = nn.Linear(action_dim, 128)
        self.time = nn.Sequential(TimeFeatures(32), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.state = nn.Linear(state_dim, 96)
        self.net = _ResNet(256, action_dim, width, blocks, nn.SiLU, dropout)
        bias = self.net.last[1].bias
        assert isinstance(bias, nn.Parameter)
        bias.requires_grad_(False)  # a constant of f, which neither scores nor rankings see

    def logp(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Tensor) -> Float[Tensor, "*batch"]:
        batch = a_t.shape[:-1]
        parts = [self.action(a_t), lead(self.time(t), batch), lead(self.state(cond), batch)]
        return self.net(torch.cat(parts, dim=-1)).sum(dim=-1)

    def eps(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Tensor) -> Float[Tensor, "*batch action"]:
        return density_eps(self.logp, self.schedule, a_t, t, cond)

    def forward(self, a_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.logp(a_t, t, cond)


class ToyScore(Scheduled):
    """Score network of CEP's 2-D problems; it reads no condition. Its last layer is divided by sigma_t, as above."""

    def __init__(self, action_dim: int = 2, schedule: Schedule | None = None, width: int = 512, depth: int = 4) -> None:
        super().__init__(schedule)
        half = width // 2
        self.action = nn.Linear(action_dim, half - 32)
        self.time = nn.Sequential(TimeFeatures(32), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.net = MLP(half, action_dim, [*[width] * depth, half])

    def eps(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Any = None) -> Float[Tensor, "*batch action"]:
        return -self.net(torch.cat([self.action(a_t), lead(self.time(t), a_t.shape[:-1])], dim=-1))

    def forward(self, a_t: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.eps(a_t, t, cond)


class EnergyMLP(nn.Module):
    """f(a_t, t, s) of CEP: 512 x 4 without states in 2-D, 256 x 4 in QGPO."""

    def __init__(self, action_dim: int, state_dim: int = 0, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.state_dim = state_dim
        self.time = nn.Sequential(TimeFeatures(32), nn.Linear(32, 32))
        self.net = MLP(action_dim + 32 + state_dim, 1, [width] * depth)

    def forward(self, a_t: Float[Tensor, "*batch action"], t: Tensor, cond: Any = None) -> Float[Tensor, "*batch"]:
        batch = a_t.shape[:-1]
        states = [lead(cond, batch)] if self.state_dim else []
        return self.net(torch.cat([a_t, lead(self.time(t), batch), *states], dim=-1))[..., 0]


class DeterministicPolicy(nn.Module):
    """SRPO's student: one pass from a state to an action in [-1, 1]; 256 x 2 ReLU, AntMaze 256 x 4."""

    def __init__(self, action_dim: int, state_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.net = MLP(state_dim, action_dim, hidden, nn.ReLU)

    def act(self, cond: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch action"]:
        return torch.tanh(self.net(cond))

    def forward(self, cond: Tensor) -> Tensor:
        return self.act(cond)


class GaussianPolicy(DeterministicPolicy):
    """N(tanh(net(s)), diag(sigma^2)) with one trained sigma for all states; it acts by its mean."""

    MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0

    def __init__(self, action_dim: int, state_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__(action_dim, state_dim, hidden)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def logp(self, a: Float[Tensor, "*batch action"], cond: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch"]:
        std = self.log_std.clamp(self.MIN_LOG_STD, self.MAX_LOG_STD).exp()
        return torch.distributions.Normal(self.act(cond), std).log_prob(a).sum(dim=-1)
