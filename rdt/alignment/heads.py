"""Small networks on pooled features of an observation and the robot's own slots of a chunk (spec alignment.md 8).

    ChunkCritic    features, the actions that are executed  -> how likely this ends in success
    ChunkEnergy    features, a noisy chunk, a time          -> E_t up to a constant: its gradient guides the sampler
    ChunkStudent   features                                 -> a whole chunk in one pass

A head knows its slots, its widths and how its features are scaled: a file of its weights and its `HeadConfig` are all
of it. Chunks are in the network's scaled space, as RDT samples them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rdt.trainable import Trainable

MIN_SCALE = 1e-2
"""Features that vary less are not blown up to more than they are."""

OVERSAMPLED, POWER_ITERATIONS = 8, 8
"""Of the randomized search for principal components: directions beyond those asked for, and passes over the rows."""


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of a head."""

    num_features: int  # pooled tokens, then the state
    num_state: int  # the last ones
    slots: tuple[int, ...]  # of the unified vector, those of the robot
    num_actions: int  # first actions of a chunk that it reads or makes
    horizon: int  # actions of a whole chunk
    hidden: int = 256
    depth: int = 2  # hidden layers
    dropout: float = 0.1
    members: int = 2  # independent networks, of which a critic is as sure as the most doubtful
    components: int = 8  # principal ones that are kept of the pooled tokens

    def __post_init__(self) -> None:
        if not 1 <= self.num_actions <= self.horizon or not self.slots:
            raise ValueError(
                f"a head reads 1 to {self.horizon} actions of at least one slot, got {self.num_actions} actions of "
                f"{len(self.slots)} slots"
            )


class Head(Trainable):
    """What the three have in common: sizes, and which features they look at.

    Those are the state and a few principal components of the pooled tokens, each scaled by its spread. Whole tokens,
    hundreds of numbers of a few hundred episodes, are learnt by heart: held-out cross-entropy rises from the start.
    """

    slots: Int[Tensor, " live"]

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        num_tokens = config.num_features - config.num_state
        self.register_buffer("token_mean", torch.zeros(num_tokens))
        self.register_buffer("token_basis", torch.eye(num_tokens, min(config.components, num_tokens)))
        self.register_buffer("mean", torch.zeros(self.num_inputs))
        self.register_buffer("scale", torch.ones(self.num_inputs))
        self.register_buffer("slots", torch.tensor(config.slots), persistent=False)

    @property
    def num_inputs(self) -> int:
        """Numbers that are left of the features."""
        config = self.config
        return min(config.components, config.num_features - config.num_state) + config.num_state

    @torch.no_grad()
    def fit_features(self, features: Float[Tensor, "row feature"]) -> None:
        """Find the principal components of these rows, and scale by their spread."""
        tokens = features[:, : -self.config.num_state]
        self.get_buffer("token_mean").copy_(tokens.mean(dim=0))
        basis = self.get_buffer("token_basis")
        basis.copy_(_principal_components(tokens - self.get_buffer("token_mean"), basis.shape[1]))
        kept = self._kept(features)
        self.get_buffer("mean").copy_(kept.mean(dim=0))
        self.get_buffer("scale").copy_(kept.std(dim=0).clamp(min=MIN_SCALE))

    def copy_features_of(self, other: Head) -> None:
        """Look at observations as another head does."""
        for name in ("token_mean", "token_basis", "mean", "scale"):
            self.get_buffer(name).copy_(other.get_buffer(name))

    def scaled(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch input"]:
        return (self._kept(features) - self.get_buffer("mean")) / self.get_buffer("scale")

    def _kept(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch input"]:
        tokens, state = features.split([features.shape[1] - self.config.num_state, self.config.num_state], dim=1)
        return torch.cat(((tokens - self.get_buffer("token_mean")) @ self.get_buffer("token_basis"), state), dim=1)

    def flat(self, chunk: Float[Tensor, "batch step slot"]) -> Float[Tensor, "batch number"]:
        """The numbers of a chunk that a head reads: its first actions, the robot's slots."""
        return chunk[:, : self.config.num_actions].index_select(2, self.slots).flatten(1).float()


class ChunkCritic(Head):
    """`logit Q(o, a)` and `logit V(o)`: of success after these actions, and whatever the actions."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        num_inputs = self.num_inputs + config.num_actions * len(config.slots)
        self.q_members = nn.ModuleList(_mlp(num_inputs, 1, config) for _ in range(config.members))
        self.v_member = _mlp(self.num_inputs, 1, config)

    def q_logits(
        self, features: Float[Tensor, "batch feature"], chunk: Float[Tensor, "batch step slot"]
    ) -> Float[Tensor, "member batch"]:
        inputs = torch.cat((self.scaled(features), self.flat(chunk)), dim=1)
        return torch.stack([member(inputs)[:, 0] for member in self.q_members])

    def q(
        self, features: Float[Tensor, "batch feature"], chunk: Float[Tensor, "batch step slot"]
    ) -> Float[Tensor, " batch"]:
        """Log-odds of success, of the most doubtful member."""
        return self.q_logits(features, chunk).min(dim=0).values

    def v_logits(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, " batch"]:
        return self.v_member(self.scaled(features))[:, 0]


class ChunkEnergy(Head):
    """`f(a_t, t, o) = E_t(a_t | o)` up to a constant in the actions; t in [0, 1]."""

    def __init__(self, config: HeadConfig, num_frequencies: int = 16) -> None:
        super().__init__(config)
        self.register_buffer(
            "frequencies", torch.randn(num_frequencies, generator=torch.Generator().manual_seed(0)) * 4
        )
        num_inputs = self.num_inputs + config.num_actions * len(config.slots) + 2 * num_frequencies
        self.member = _mlp(num_inputs, 1, config)

    def energy(
        self,
        noisy: Float[Tensor, "batch step slot"],
        t: Float[Tensor, " batch"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, " batch"]:
        angles = 2 * torch.pi * t[:, None] * self.get_buffer("frequencies")
        inputs = torch.cat((self.scaled(features), self.flat(noisy), angles.sin(), angles.cos()), dim=1)
        return self.member(inputs)[:, 0]


class ChunkStudent(Head):
    """A deterministic policy: one pass from an observation's features to its chunk."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.member = _mlp(self.num_inputs, config.horizon * len(config.slots), config)

    def act(self, features: Float[Tensor, "batch feature"], num_slots: int) -> Float[Tensor, "batch horizon slot"]:
        """The chunk in the network's space, 0 in slots that the robot lacks."""
        rows = self.member(self.scaled(features)).unflatten(1, (self.config.horizon, -1))
        chunk = torch.zeros(*rows.shape[:2], num_slots, dtype=rows.dtype, device=rows.device)
        return chunk.index_copy(2, self.slots, rows)


HEADS: dict[str, type[Head]] = {"critic": ChunkCritic, "energy": ChunkEnergy, "student": ChunkStudent}
"""Kind in a file -> class."""


def _principal_components(centred: Float[Tensor, "row token"], count: int) -> Float[Tensor, "token component"]:
    """By randomized subspace iteration: RDT-1B has 30,000 such numbers, whose covariance is 4 GB.

    Fewer rows than that span fewer; what is missing is 0.
    """
    basis = centred.new_zeros(centred.shape[1], count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, found = torch.svd_lowrank(centred, q=min(count + OVERSAMPLED, *centred.shape), niter=POWER_ITERATIONS)
    found = found[:, :count]
    basis[:, : found.shape[1]] = found
    return basis


def _mlp(num_inputs: int, num_outputs: int, config: HeadConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = num_inputs
    for _ in range(config.depth):
        layers += [nn.Linear(width, config.hidden), nn.LayerNorm(config.hidden), nn.SiLU(), nn.Dropout(config.dropout)]
        width = config.hidden
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))
