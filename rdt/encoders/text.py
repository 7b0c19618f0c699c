"""Text encoders: sentences -> ids and a mask (on the loader's side), ids -> tokens (on the device).

Every encoder answers the same questions, so the rest of the stack does not know which one it has.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class TextEncoder(Protocol):
    """What the condition encoder asks of a text encoder; the implementations are `nn.Module`s."""

    token_dim: int
    max_tokens: int

    def tokenize(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask, both (batch, max_tokens)."""
        ...

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (batch, max_tokens, token_dim)."""
        ...


class HashedBigrams(nn.Module):
    """A trainable table of hashed word pairs: no vocabulary file, and word order survives.

    "from right to left" and "from left to right" hold the same words, so a bag of words cannot tell them
    apart, but they share no pair "from right" / "to left" (spec quickstart_sim.md section 5). An empty
    sentence is the single pair (start, end). Sentences past `max_tokens` pairs are cut.
    """

    def __init__(self, token_dim: int = 64, max_tokens: int = 16, num_buckets: int = 511) -> None:
        super().__init__()
        self.token_dim = token_dim
        self.max_tokens = max_tokens
        self.num_buckets = num_buckets
        self.table = nn.Embedding(num_buckets + 1, token_dim, padding_idx=0)  # id 0 is padding

    def tokenize(self, sentences: Sequence[str]) -> tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]:
        ids = torch.zeros(len(sentences), self.max_tokens, dtype=torch.long)
        for row, sentence in enumerate(sentences):
            words = ["<s>", *re.findall(r"[a-z0-9]+", sentence.lower()), "</s>"]
            pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)][: self.max_tokens]
            hashed = [1 + zlib.crc32(pair.encode()) % self.num_buckets for pair in pairs]
            ids[row, : len(hashed)] = torch.tensor(hashed)
        return ids, ids != 0

    def forward(
        self, ids: Int[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token dim"]:
        return self.table(ids)


TEXT_ENCODERS = {"hashed_bigrams": "rdt.encoders.text:HashedBigrams"}
"""Name in a config -> class; its constructor takes `token_dim` and `max_tokens`."""
