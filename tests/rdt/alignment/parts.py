"""A tiny random policy, what it sees, and small heads for it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rdt.alignment.heads import Head, HeadConfig
from rdt.batch import Batch, Condition, ObservationBatch
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.visuomotor import VisuomotorPolicy

SLOTS = (0, 1, 10)
HORIZON = 5


def make_policy(seed: int = 0) -> VisuomotorPolicy:
    torch.manual_seed(seed)
    sizes = dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2, pred_horizon=HORIZON)
    model = VisuomotorPolicy(sizes, ConditionConfig(cameras=("external",)), "live").eval()
    with torch.no_grad():
        model.policy.model.final_layer.ffn_final.fc2.weight.normal_(std=0.1)  # 0 at first: it would say nothing
    return model.requires_grad_(False)


def make_batch(model: VisuomotorPolicy, rows: int = 4, sentences: tuple[str, ...] = ("a to b", "b to a")) -> Batch:
    """Rows take the sentences in turn; label is the number of the sentence."""
    generator = torch.Generator().manual_seed(1)
    text, mask = model.condition.text.tokenize(sentences)
    live = torch.zeros(128)
    live[list(SLOTS)] = 1
    which = torch.arange(rows) % len(sentences)
    observation = ObservationBatch(
        images=torch.randint(0, 256, (rows, 1, 64, 64, 3), generator=generator, dtype=torch.uint8),
        image_mask=torch.ones(rows, 1, dtype=torch.bool),
        text=text,
        text_mask=mask,
        text_index=which,
        state=torch.randn(rows, 128, generator=generator) * live,
        slot_mask=live.expand(rows, -1),
        state_present=live.bool().expand(rows, -1),
        control_hz=torch.full((rows,), 12.5),
    )
    return Batch(
        observation=observation,
        actions=torch.randn(rows, HORIZON, 128, generator=generator) * live,
        action_mask=live.expand(rows, -1),
        action_valid=torch.ones(rows, HORIZON, dtype=torch.bool),
        store=torch.zeros(rows, dtype=torch.long),
        sample_index=torch.arange(rows),
        label=which.float(),
    )


def condition_of(model: VisuomotorPolicy, batch: Batch) -> Condition:
    return model.condition(batch.observation)


def make_head(kind: type[Head], num_features: int, **sizes: int) -> Head:
    torch.manual_seed(2)
    config = HeadConfig(
        num_features, 128, SLOTS, num_actions=sizes.pop("num_actions", HORIZON), horizon=HORIZON, hidden=16
    )
    return kind(config).eval()


def noise_of(rows: int, seed: int = 3) -> Tensor:
    noise = torch.randn(rows, HORIZON, 128, generator=torch.Generator().manual_seed(seed))
    keep = torch.zeros(128)
    keep[list(SLOTS)] = 1
    return noise * keep
