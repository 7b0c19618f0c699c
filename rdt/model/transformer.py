"""The diffusion transformer of RDT (spec rdt.md sections 3.3-3.6): tokens in, one prediction per action out.

    [timestep, control frequency, state, action_0 ... action_{H-1}] + positions
        -> depth x Block, even ones attend to language, odd ones to images
        -> final layer -> the last H tokens

It knows hidden tokens only; what comes before (adaptors) and around it (diffusion) stands in `policy.py`.
Parameters are left as PyTorch makes them; `RDTPolicy.init_weights` sets them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rdt.model.layers import Block, FinalLayer, KeyValue, NormKind, ScalarEmbedder

NUM_PREFIX_TOKENS = 3  # timestep, control frequency, state


class Transformer(nn.Module):
    def __init__(
        self,
        *,
        hidden_size: int,
        depth: int,
        num_heads: int,
        horizon: int,
        action_dim: int,
        max_lang_tokens: int,
        num_img_tokens: int,
        norm: NormKind,
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.checkpoint_blocks = False  # in training, keep a block's input alone and work out the rest again
        self.t_embedder = ScalarEmbedder(hidden_size)
        self.freq_embedder = ScalarEmbedder(hidden_size)
        self.x_pos_embed = nn.Parameter(torch.empty(1, NUM_PREFIX_TOKENS + horizon, hidden_size))
        self.lang_cond_pos_embed = nn.Parameter(torch.empty(1, max_lang_tokens, hidden_size))
        self.img_cond_pos_embed = nn.Parameter(torch.empty(1, num_img_tokens, hidden_size))
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, norm) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, action_dim, norm)

    def place_language(self, lang: Float[Tensor, "rows lang hidden"]) -> Float[Tensor, "rows lang hidden"]:
        """Language tokens with their positions, in the tokens' type: autocast makes them narrower than weights."""
        return lang + self.lang_cond_pos_embed[:, : lang.shape[1]].to(lang.dtype)

    def place_images(self, img: Float[Tensor, "batch img hidden"]) -> Float[Tensor, "batch img hidden"]:
        """Image tokens with their positions, in the tokens' type."""
        return img + self.img_cond_pos_embed.to(img.dtype)

    def language_key_values(self, lang: Float[Tensor, "rows lang hidden"]) -> tuple[KeyValue, ...]:
        """Keys and values of placed language tokens, one pair for each of the even blocks."""
        return tuple(block.cross_attn.key_value(lang) for block in self.blocks[::2])

    def image_key_values(self, img: Float[Tensor, "batch img hidden"]) -> tuple[KeyValue, ...]:
        """Keys and values of placed image tokens, one pair for each of the odd blocks."""
        return tuple(block.cross_attn.key_value(img) for block in self.blocks[1::2])

    def forward(
        self,
        timesteps: Num[Tensor, "#batch"],
        freq_token: Float[Tensor, "batch 1 hidden"],
        state_token: Float[Tensor, "batch 1 hidden"],
        action_tokens: Float[Tensor, "batch horizon hidden"],
        conditions: Sequence[Float[Tensor, "batch _ hidden"] | KeyValue],
        lang_mask: Bool[Tensor, "batch 1 1 lang"] | None,
    ) -> Float[Tensor, "batch horizon slot"]:
        t_token = self.t_embedder(timesteps)[:, None].expand_as(freq_token)  # (B, 1, D)
        x = torch.cat([t_token, freq_token, state_token, action_tokens], dim=1) + self.x_pos_embed  # (B, 3 + H, D)
        for i, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            mask = lang_mask if i % 2 == 0 else None
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, condition, mask, use_reentrant=False)  # (B, 3 + H, D)
            else:
                x = block(x, condition, mask)  # (B, 3 + H, D)
        return self.final_layer(x[:, -self.horizon :])  # (B, H, A)
