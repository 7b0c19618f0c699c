"""A tiny real policy and a valid random input for it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS, RDTConfig


@pytest.fixture
def config() -> RDTConfig:
    return dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, num_heads=2, pred_horizon=6)


@pytest.fixture
def make_policy():
    """A policy with every parameter random, so that zero-initialised layers hide nothing."""

    def make(config: RDTConfig) -> RDTPolicy:
        torch.manual_seed(0)
        policy = RDTPolicy(config)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.5, 1.5)
                elif "pos_embed" not in name:
                    parameter.normal_(std=0.2)
        return policy

    return make


@pytest.fixture
def make_inputs():
    """Keyword arguments of `predict_action`, without the noise; the last two language tokens are padding."""

    def make(config: RDTConfig, batch: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(batch, *shape, generator=generator)

        mask = (draw(1, config.action_dim) > 0).float()
        return {
            "lang_tokens": draw(7, config.lang_token_dim),
            "lang_attn_mask": (torch.arange(7) < 5).expand(batch, 7),
            "img_tokens": draw(config.img_cond_len, config.img_token_dim),
            "state_tokens": draw(1, config.state_token_dim) * mask,
            "action_mask": mask,
            "ctrl_freqs": torch.tensor([25.0, 12.5, 0.0])[:batch],
        }

    return make


@pytest.fixture
def make_noise():
    def make(config: RDTConfig, batch: int = 3, seed: int = 1) -> torch.Tensor:
        shape = (batch, config.pred_horizon, config.action_dim)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make
