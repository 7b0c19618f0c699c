"""Counting on a ring, the home ground of NCA, with everything known about it.

A question is a start s and a step d, both in 0 ... 4; the right answer is s + d, s + 2 d, ..., s + 5 d modulo 5. Those
who answered the questions of the data add d to the token before, and slip to one of the four others with probability
`slip`:

    p(y | s, d) = prod_i  (1 - slip)  where y_i = y_(i-1) + d,  slip / 4  elsewhere,     y_0 = s.

The reward of an answer is the share of its tokens that stand in the right one, so one early slip may cost all that
follows. There are 25 questions and 3125 answers: every expectation is a sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rdt.alignment.sequence_model import SequencePolicy

RING, NUM_TOKENS = 5, 5
NUM_PROMPTS = 2 * RING  # the tokens RING + s and 2 RING + d


def questions() -> Int[Tensor, "question 2"]:
    """All of them, as prompts."""
    return torch.cartesian_prod(torch.arange(RING), torch.arange(RING)) + torch.tensor([RING, 2 * RING])


def answers(num_tokens: int = NUM_TOKENS) -> Int[Tensor, "answer token"]:
    """All sequences of so many tokens, the last one changing fastest."""
    place = RING ** torch.arange(num_tokens - 1, -1, -1)
    return torch.arange(RING**num_tokens)[:, None] // place % RING


def right_answers(prompts: Int[Tensor, "n 2"]) -> Int[Tensor, "n token"]:
    start, step = prompts[:, :1] - RING, prompts[:, 1:] - 2 * RING
    return (start + step * torch.arange(1, NUM_TOKENS + 1)) % RING


def reward(prompts: Int[Tensor, "n 2"], responses: Int[Tensor, "n ... token"]) -> Float[Tensor, "n ..."]:
    """Share of the tokens that are right, 0 ... 1."""
    right = right_answers(prompts).reshape(len(prompts), *(1,) * (responses.ndim - 2), NUM_TOKENS)
    return (responses == right).float().mean(dim=-1)


@dataclass(frozen=True)
class Counting:
    """The true distribution of the data; questions are equally likely."""

    slip: float = 0.3

    def sample(self, prompts: Int[Tensor, "n 2"], generator: torch.Generator) -> Int[Tensor, "n token"]:
        token, step = prompts[:, 0] - RING, prompts[:, 1] - 2 * RING
        said = []
        for _ in range(NUM_TOKENS):
            slips = torch.rand(len(prompts), generator=generator) < self.slip
            by = torch.randint(1, RING, (len(prompts),), generator=generator)
            token = (token + step + by * slips) % RING
            said.append(token)
        return torch.stack(said, dim=1)

    def logp(self, prompts: Int[Tensor, "n 2"], responses: Int[Tensor, "n token"]) -> Float[Tensor, " n"]:
        before = torch.cat([prompts[:, :1] - RING, responses[:, :-1]], dim=1)
        right = responses == (before + prompts[:, 1:] - 2 * RING) % RING
        slip = torch.tensor(math.log(self.slip / (RING - 1)))
        return torch.where(right, math.log1p(-self.slip), slip).sum(dim=1)


@torch.no_grad()
def every_logp(policy: SequencePolicy) -> Float[Tensor, "question answer"]:
    """log p of each answer to each question, in the order of `questions` and `answers`. Each beginning is read once."""
    asked = questions()
    logp = torch.zeros(len(asked), 1)
    for length in range(NUM_TOKENS):
        begun = answers(length)  # (RING^length, length)
        prompts = asked.repeat_interleave(len(begun), dim=0)
        begun = torch.nn.functional.pad(begun, (0, 1)).repeat(len(asked), 1)  # what is asked for may be any token
        following = policy.logits(prompts, begun)[:, -1].log_softmax(dim=-1)
        logp = (logp[..., None] + following.unflatten(0, logp.shape)).flatten(1)
    return logp
