"""What a critic, an energy or a student is told of an observation: a few pooled numbers of what RDT reads.

The encoders stay as they are (spec alignment.md section 8, "frozen pooled encoder features"), so features are worked
out once an observation, and small networks on top of them train in seconds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.batch import Condition

MAX_GROUPS = 24
"""Picture tokens are averaged in at most so many runs: a small encoder's one by one, a large one's by regions."""


def pooled_features(condition: Condition) -> Float[Tensor, "batch feature"]:
    """Averaged picture tokens, averaged words and the scaled state, side by side, float32."""
    images, words = condition.img_tokens.float(), condition.lang_tokens.float()
    groups = min(MAX_GROUPS, images.shape[1])
    pooled = torch.nn.functional.adaptive_avg_pool1d(images.transpose(1, 2), groups).transpose(1, 2)
    mask = condition.lang_attn_mask[..., None].float()
    language = (words * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    if condition.lang_index is not None:
        language = language[condition.lang_index]
    return torch.cat((pooled.flatten(1), language, condition.state_tokens[:, 0].float()), dim=1)
