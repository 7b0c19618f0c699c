"""Text encoders: sentences -> what is known of them and a mask (on the loader's side), that -> tokens (on the device).

Every encoder answers the same questions, so the rest of the stack does not know which one it has.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

if TYPE_CHECKING:
    from rdt.encoders.condition import ConditionConfig


class TextEncoder(Protocol):
    """What the condition encoder asks of a text encoder; the implementations are `nn.Module`s."""

    token_dim: int
    max_tokens: int

    def prepare(self, sentences: Iterable[str]) -> None:
        """Do now what is slow the first time that a sentence is met."""
        ...

    def tokenize(
        self, sentences: Sequence[str], pad_to: int | None = None
    ) -> tuple[Num[Tensor, "instruction token *dim"], Bool[Tensor, "instruction token"]]:
        """What the call below takes, ids or features, and where they are; `pad_to` fixes the number of tokens."""
        ...

    def __call__(self, text: Tensor, mask: Tensor) -> Tensor:
        """Tokens (instruction, token, token_dim)."""
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

    @classmethod
    def from_config(cls, config: ConditionConfig, *, token_dim: int, max_tokens: int) -> HashedBigrams:
        """The table is as wide as the network wants it."""
        if config.text_path:
            raise ValueError("hashed_bigrams has no files: remove condition.text_path, or set condition.text to t5")
        return cls(token_dim=token_dim, max_tokens=max_tokens)

    def prepare(self, sentences: Iterable[str]) -> None:
        """Nothing here is slow."""

    def tokenize(
        self, sentences: Sequence[str], pad_to: int | None = None
    ) -> tuple[Int[Tensor, "instruction token"], Bool[Tensor, "instruction token"]]:
        """Always `max_tokens` ids without `pad_to`."""
        hashed = [self._hashed(sentence) for sentence in sentences]
        width = self.max_tokens if pad_to is None else pad_to
        check_padding(max(map(len, hashed)), width, self.max_tokens)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in hashed])
        return ids, ids != 0

    def _hashed(self, sentence: str) -> list[int]:
        words = ["<s>", *re.findall(r"[a-z0-9]+", sentence.lower()), "</s>"]
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)][: self.max_tokens]
        return [1 + zlib.crc32(pair.encode()) % self.num_buckets for pair in pairs]

    def forward(
        self, text: Int[Tensor, "instruction token"], mask: Bool[Tensor, "instruction token"]
    ) -> Float[Tensor, "instruction token dim"]:
        return self.table(text)


def check_padding(longest: int, width: int, max_tokens: int) -> None:
    """Raise `ValueError` unless sentences of up to `longest` tokens fit into `width`, and that into the network."""
    if not longest <= width <= max_tokens:
        raise ValueError(
            f"language of up to {longest} tokens cannot be padded to {width}: the network reads at most {max_tokens}"
        )


TEXT_ENCODERS = {
    "hashed_bigrams": "rdt.encoders.text:HashedBigrams",
    "t5": "rdt.encoders.t5:CachedT5",
}
"""Name in a config -> class with `from_config(config, token_dim=, max_tokens=)`, the sizes that the network reads."""
