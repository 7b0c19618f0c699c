"""InfoNCA and NCA, noise contrastive alignment (Chen et al. 2024; spec alignment.md section 5).

K candidates of a row with scalar rewards r_k, and R_k = beta (log pi(y_k | x) - log pi_ref(y_k | x)):

    labels   w_k = softmax_k(r_k / T)
    InfoNCA  L = - mean_x sum_k w_k log softmax_k(R_k)
    NCA      L = - mean_x sum_k w_k log sigmoid(R_k)  -  mean_x (1 / K) sum_k log sigmoid(-R_k)

InfoNCA binds differences only, so all likelihoods may sink together; NCA binds each one. DPO is InfoNCA with K = 2
and T -> 0. The published recipe adds 0.01 to the first score so that ties break as in its data, and T = 1e-4 makes its
labels one-hot: both are the caller's settings here.

For a sequence model, `preference_loss` of `log_ratio.sequence`. RDT has episodes that ended well or badly in place of K
candidates with rewards: `chunks.OutcomePolicy` puts the same loss over a batch of them, with denoising-error ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.alignment.losses import contrastive, nca, soft_labels

Kind = Literal["InfoNCA", "NCA"]
KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"InfoNCA": contrastive, "NCA": nca}


def preference_loss(
    log_ratio: Float[Tensor, "row k"],
    reward: Float[Tensor, "row k"],
    *,
    beta: float = 0.01,
    temperature: float = 1.0,
    first_offset: float = 0.0,
    kind: Kind = "NCA",
) -> Float[Tensor, ""]:
    """The loss above, of log-ratios without beta. `first_offset` is added to the first candidate's reward."""
    offset = torch.zeros_like(reward)
    offset[..., 0] = first_offset
    return KINDS[kind](beta * log_ratio, soft_labels(reward + offset, 1 / temperature))
