"""CCA, condition contrastive alignment (Chen et al. 2024; spec alignment.md section 6).

Positives are pairs (x, c) of the data; negatives keep x and take the next row's condition. With
g = log p_theta(x|c) - log p_ref(x|c),

    L = - mean log sigmoid(beta g+) - lambda mean log sigmoid(-beta g-),

whose optimum p_theta(x|c) ~ p_ref(x|c) (p(x|c) / p(x))^(1 / beta) is classifier-free guidance of scale 1 / beta, folded
into the weights: sampling costs half. Where conditions are dropped (the same rows in both halves), rows whose two
conditions are one become positives of weight 1, and all is divided by max(lambda, 1).

Labels need no reward. Dropout stays on in both networks, and both halves go through in one batch. For a sequence model
the objective is `sequence_objectives.SequenceCCA`; for RDT, whose condition is an instruction and whose negatives are
other tasks' words, `chunks.WordsPolicy`.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor


class Contrast(NamedTuple):
    """The two conditions of each row."""

    positive: Int[Tensor, " row"]
    negative: Int[Tensor, " row"]
    same: Bool[Tensor, " row"]  # rows whose two conditions are one


def contrast(
    condition: Int[Tensor, " row"], dropped: Bool[Tensor, " row"] | None = None, null: int | None = None
) -> Contrast:
    """Each row's condition beside the next row's; dropped rows have `null` for both.

    Conditions are numbers: labels, or which instruction a row has. A batch is to be shuffled; a random permutation
    would pair rows with themselves more often than the data do.
    """
    negative = condition.roll(-1)
    if dropped is not None:
        if null is None:
            raise ValueError("rows are dropped, but no condition stands for none: give `null`")
        condition, negative = condition.where(~dropped, null), negative.where(~dropped, null)
    return Contrast(condition, negative, condition == negative)
