"""A small transformer over tokens, and classifier-free guidance of it: what CCA and NCA were published for.

Tokens 0 ... num_outputs - 1 may be said; those above stand in prompts only (a class, a question, "no class"). A prompt
is not empty and all prompts of a batch are equally long, as all responses are. There is no dropout: such a network
underfits as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rdt.alignment.log_ratio import sequence_logp


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Sizes of a `SequenceModel`."""

    num_outputs: int  # tokens that may be said
    num_prompts: int  # further tokens, of prompts only
    max_tokens: int  # of a prompt and its response together
    width: int = 48
    num_heads: int = 4
    num_blocks: int = 2


class SequencePolicy(Protocol):
    """Whatever says tokens one after the other: a network, or one that is guided."""

    @property
    def passes(self) -> int:
        """Of the network, for each token."""
        ...

    def logits(
        self, prompts: Int[Tensor, "row prompt"], responses: Int[Tensor, "row token"]
    ) -> Float[Tensor, "row token output"]:
        """Up to a constant, the log-probability of each token after the prompt and the tokens before."""
        ...

    def sample(
        self, prompts: Int[Tensor, "row prompt"], num_tokens: int, generator: torch.Generator
    ) -> Int[Tensor, "row token"]: ...


def response_logp(
    policy: SequencePolicy, prompts: Int[Tensor, "row prompt"], responses: Int[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """log p(response | prompt), normalised."""
    return sequence_logp(policy.logits(prompts, responses), responses, shift=0)


class Cache:
    """Keys and values of the tokens that were read, for all of `max_tokens` from the start."""

    def __init__(self, config: SequenceConfig, rows: int, like: Tensor) -> None:
        head = config.width // config.num_heads
        shape = (config.num_blocks, 2, rows, config.num_heads, config.max_tokens, head)
        self.kept = like.new_zeros(shape)
        self.length = 0

    def extend(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of everything read so far, (row, head, token, feature)."""
        end = self.length + key.shape[2]
        self.kept[block, 0, :, :, self.length : end] = key
        self.kept[block, 1, :, :, self.length : end] = value
        return self.kept[block, 0, :, :, :end], self.kept[block, 1, :, :, :end]


class Block(nn.Module):
    """Pre-norm self-attention, then an MLP of four times the width."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "row token width"], number: int, cache: Cache | None) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )  # (row, head, token, feature)
        before = 0
        if cache is not None:
            before = cache.length
            k, v = cache.extend(number, k, v)
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(before)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class SequenceModel(nn.Module):
    """A decoder-only transformer with learned positions."""

    passes = 1

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.num_outputs + config.num_prompts, config.width)
        self.position = nn.Embedding(config.max_tokens, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.num_heads) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.num_outputs)
        self._initialize()

    def _initialize(self) -> None:
        """Embeddings N(0, 0.02^2); last layer zero, so that all tokens start equally likely; the rest is torch's."""
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, tokens: Int[Tensor, "row token"], cache: Cache | None = None
    ) -> Float[Tensor, "row token output"]:
        """Logits of what follows each token. With a cache, the tokens go on where it ends, and it is extended."""
        start = 0 if cache is None else cache.length
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.token(tokens) + self.position(places)
        for number, block in enumerate(self.blocks):
            x = block(x, number, cache)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.head(self.norm(x))

    def logits(
        self, prompts: Int[Tensor, "row prompt"], responses: Int[Tensor, "row token"]
    ) -> Float[Tensor, "row token output"]:
        return self(torch.cat([prompts, responses[:, :-1]], dim=1))[:, prompts.shape[1] - 1 :]

    @torch.no_grad()
    def sample(
        self, prompts: Int[Tensor, "row prompt"], num_tokens: int, generator: torch.Generator
    ) -> Int[Tensor, "row token"]:
        cache = Cache(self.config, len(prompts), self.head.weight)
        said: list[Tensor] = []
        read = prompts
        for _ in range(num_tokens):
            read = _draw(self(read, cache)[:, -1], generator)
            said.append(read)
        return torch.cat(said, dim=1)


@dataclass(frozen=True)
class FreeGuidance:
    """Classifier-free guidance: log p + (scale - 1) (log p - log p(no condition)) for each token; 1 is no guidance.

    Two passes a token, side by side in one batch. Guiding every token by what is known so far is not the same as
    tilting whole sequences, which is what CCA does.
    """

    model: SequenceModel
    null: Int[Tensor, " prompt"]  # the prompt that says nothing
    scale: float
    passes: int = 2

    def logits(
        self, prompts: Int[Tensor, "row prompt"], responses: Int[Tensor, "row token"]
    ) -> Float[Tensor, "row token output"]:
        return self._guided(self.model.logits(self._both(prompts), torch.cat([responses, responses])))

    @torch.no_grad()
    def sample(
        self, prompts: Int[Tensor, "row prompt"], num_tokens: int, generator: torch.Generator
    ) -> Int[Tensor, "row token"]:
        cache = Cache(self.model.config, 2 * len(prompts), self.model.head.weight)
        said: list[Tensor] = []
        read = self._both(prompts)
        for _ in range(num_tokens):
            token = _draw(self._guided(self.model(read, cache)[:, -1]), generator)
            said.append(token)
            read = torch.cat([token, token])
        return torch.cat(said, dim=1)

    def _both(self, prompts: Tensor) -> Tensor:
        return torch.cat([prompts, self.null.expand_as(prompts)])

    def _guided(self, logits: Tensor) -> Tensor:
        conditional, unconditional = logits.log_softmax(dim=-1).chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


def _draw(logits: Float[Tensor, "row output"], generator: torch.Generator) -> Int[Tensor, "row 1"]:
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
