"""Digits on a small grid, the home ground of CCA, with everything known about them.

A picture has 8 x 8 black or white pixels: a digit of 3 x 5 at one of 24 places, each pixel then turned over with
probability `flip`. So with T the 24 templates of a class and d the pixels in which a picture differs,

    p(x | c) = 1 / 24  sum_T  flip^d(x, T) (1 - flip)^(64 - d(x, T)),      p(c | x) ~ p(x | c).

A model reads 16 tokens, the patches of 2 x 2 pixels from the top left: token = 8 a + 4 b + 2 c + d for a patch
[[a, b], [c, d]]. Many digits differ in one or two pixels, so that the class of a picture is open at times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SIDE, PATCH = 8, 2  # pixels
NUM_CLASSES = 10
NUM_TOKENS = (SIDE // PATCH) ** 2
VOCABULARY = 2 ** (PATCH * PATCH)

_DIGITS = (
    "###/#.#/#.#/#.#/### .#./##./.#./.#./### ###/..#/###/#../### ###/..#/###/..#/### #.#/#.#/###/..#/..# "
    "###/#../###/..#/### ###/#../###/#.#/### ###/..#/..#/..#/..# ###/#.#/###/#.#/### ###/#.#/###/..#/###"
)


def _templates() -> Bool[Tensor, "class place pixel"]:
    """All digits at all places."""
    placed = []
    for digit in _DIGITS.split():
        shape = torch.tensor([[pixel == "#" for pixel in row] for row in digit.split("/")])
        height, width = shape.shape
        for top in range(SIDE - height + 1):
            for left in range(SIDE - width + 1):
                picture = torch.zeros(SIDE, SIDE, dtype=torch.bool)
                picture[top : top + height, left : left + width] = shape
                placed.append(picture.flatten())
    return torch.stack(placed).unflatten(0, (NUM_CLASSES, -1))


def to_tokens(pixels: Bool[Tensor, "n pixel"]) -> Int[Tensor, "n token"]:
    patches = pixels.reshape(-1, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH).transpose(2, 3).flatten(3).flatten(1, 2)
    return patches.long() @ _BITS


def to_pixels(tokens: Int[Tensor, "n token"]) -> Bool[Tensor, "n pixel"]:
    bits = (tokens[..., None] & _BITS) > 0  # (n, token, 4)
    return bits.unflatten(1, (SIDE // PATCH, -1)).unflatten(3, (PATCH, PATCH)).transpose(2, 3).flatten(1)


_BITS = 2 ** torch.arange(PATCH * PATCH - 1, -1, -1)
TEMPLATES = _templates()


@dataclass(frozen=True, eq=False)
class Glyphs:
    """The true distribution; classes and places are equally likely."""

    flip: float = 0.05

    def sample(self, classes: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, "n token"]:
        place = torch.randint(TEMPLATES.shape[1], classes.shape, generator=generator)
        turned = torch.rand(len(classes), SIDE * SIDE, generator=generator) < self.flip
        return to_tokens(TEMPLATES[classes, place] ^ turned)

    def log_parts(self, tokens: Int[Tensor, "n token"]) -> Float[Tensor, "n class place"]:
        """log p(x, place | class)."""
        pixels, flat = to_pixels(tokens).float(), TEMPLATES.flatten(0, 1).float()
        wrong = pixels.sum(1)[:, None] + flat.sum(1) - 2 * pixels @ flat.T  # (n, class * place)
        right = SIDE * SIDE - wrong
        logp = wrong * math.log(self.flip) + right * math.log1p(-self.flip) - math.log(TEMPLATES.shape[1])
        return logp.unflatten(1, TEMPLATES.shape[:2])

    def logp(self, tokens: Int[Tensor, "n token"]) -> Float[Tensor, "n class"]:
        """log p(x | class), for all classes."""
        return self.log_parts(tokens).logsumexp(dim=2)

    def posterior(self, tokens: Int[Tensor, "n token"]) -> Float[Tensor, "n class"]:
        """p(class | x)."""
        return self.logp(tokens).softmax(dim=1)

    def places(self, tokens: Int[Tensor, "n token"], classes: Int[Tensor, " n"]) -> Float[Tensor, "n place"]:
        """p(place | x, class)."""
        parts = self.log_parts(tokens)
        return parts[torch.arange(len(tokens)), classes].softmax(dim=1)
