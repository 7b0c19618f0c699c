"""What a policy costs in use and in training, counted from its sizes: operations and bytes (spec rdt.md section 17).

An operation is a multiplication or an addition; norms, activations and softmax are left out. The numbers are floors:
no implementation of the same network can do with less.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rdt.model.layers import SCALAR_FEATURES
from rdt.model.presets import RDTConfig
from rdt.model.transformer import NUM_PREFIX_TOKENS


@dataclass(frozen=True)
class InferenceCost:
    """One observation to one chunk, a batch of one."""

    adaptor_flops: float  # language and images to the hidden size
    project_flops: float  # keys and values of all blocks
    step_flops: float  # one denoising step, keys and values given
    project_params: int  # weights that the projection reads
    step_params: int  # weights that one step reads
    key_value_numbers: int  # keys and values that one step reads

    @property
    def naive_step_flops(self) -> float:
        """A step that projects the condition again, adaptors not counted."""
        return self.project_flops + self.step_flops


def inference_cost(config: RDTConfig, num_lang_tokens: int) -> InferenceCost:
    """Counts for an instruction of so many tokens and all image tokens."""
    h, tokens = config.hidden_size, NUM_PREFIX_TOKENS + config.pred_horizon
    language_blocks, image_blocks = (config.depth + 1) // 2, config.depth // 2
    lang = _adaptor_weights(config.lang_adaptor, config.lang_token_dim, h)
    img = _adaptor_weights(config.img_adaptor, config.img_token_dim, h)
    state = _adaptor_weights(config.state_adaptor, 2 * config.state_token_dim, h)
    conditions = num_lang_tokens * language_blocks + config.img_cond_len * image_blocks  # tokens that are projected
    per_token = 8 * h * h  # qkv, proj; q, proj; fc1, fc2
    final = h * h + h * config.action_dim
    embedder = SCALAR_FEATURES * h + h * h
    attended = config.depth * tokens + conditions  # sources of each token, over all blocks
    step_weights = config.depth * per_token + final + state + embedder
    return InferenceCost(
        adaptor_flops=2.0 * (lang * num_lang_tokens + img * config.img_cond_len),
        project_flops=2.0 * 2 * h * h * conditions,
        step_flops=2.0 * (config.depth * per_token + final) * tokens
        + 2.0 * state * (config.pred_horizon + 1)
        + 2.0 * 2 * embedder
        + 4.0 * tokens * attended * h,
        project_params=config.depth * 2 * h * h + lang + img,
        step_params=step_weights,
        key_value_numbers=2 * h * conditions,
    )


def training_flops(
    config: RDTConfig, *, num_samples: int, lang_tokens: int, attended_lang_tokens: int, trained: float = 1.0
) -> float:
    """One training step, forward and backward: for each product forward one for the gradient of its input and, for
    the share `trained` of the weights, one for theirs. Recomputation and the optimizer do not count.

    `lang_tokens` are those of all distinct instructions, which are projected once; `attended_lang_tokens` those that
    the samples attend to, summed over samples.
    """
    none, one = inference_cost(config, 0), inference_cost(config, 1)
    of_sample = none.adaptor_flops + none.naive_step_flops
    of_token = one.adaptor_flops + one.project_flops - none.adaptor_flops - none.project_flops
    of_attended = one.step_flops - none.step_flops
    forward = num_samples * of_sample + lang_tokens * of_token + attended_lang_tokens * of_attended
    return forward * (2 + trained)


def _adaptor_weights(kind: str, in_features: int, hidden_size: int) -> int:
    depth = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    return in_features * hidden_size + (int(depth[1]) - 1 if depth else 0) * hidden_size**2
