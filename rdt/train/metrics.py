"""Does it learn? The sampling errors of the paper on held-out batches (spec rdt.md section 11)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.batch import Batch, to_device
from rdt.random import SampleGenerator
from rdt.visuomotor import VisuomotorPolicy


def masked_mse(
    predicted: Float[Tensor, "batch horizon slot"],
    truth: Float[Tensor, "batch horizon slot"],
    mask: Float[Tensor, "batch slot"],
) -> Float[Tensor, ""]:
    """sum(mask * (predicted - truth)^2) / sum(mask) over batch, horizon and slots."""
    weight = mask[:, None].expand_as(predicted)
    return (weight * (predicted - truth).square()).sum() / weight.sum()


@torch.inference_mode()
def sampling_error(model: VisuomotorPolicy, batches: Sequence[Batch], generator: SampleGenerator) -> float:
    """Mean squared error of sampled chunks against the demonstrated ones, unscaled unified units."""
    total = 0.0
    for batch in batches:
        batch = to_device(batch, model.device)
        noise = generator.normal(batch.sample_index, tuple(batch.actions.shape[1:]), "sampling noise")
        predicted = model.sample_actions(batch.observation, noise)
        total += masked_mse(predicted, batch.actions, batch.action_mask).item()
    return total / len(batches)
