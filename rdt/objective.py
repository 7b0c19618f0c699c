"""What a trainer minimises: `(model, batch, generator) -> (loss, metrics)`.

Pre-training and fine-tuning share `DiffusionImitation`; each alignment stage brings an objective of its own.
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from rdt.batch import Batch, Condition
from rdt.random import SampleGenerator
from rdt.visuomotor import VisuomotorPolicy


class Objective(Protocol):
    """A loss to minimise, and numbers to show; an alignment objective holds its reference model."""

    def __call__(
        self, model: VisuomotorPolicy, batch: Batch, generator: SampleGenerator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss with its graph, and detached scalars by name."""
        ...


class DiffusionImitation:
    """RDT's training loss: recover the demonstrated chunk from its noised version (spec rdt.md section 5)."""

    def __call__(
        self, model: VisuomotorPolicy, batch: Batch, generator: SampleGenerator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The condition comes from `model.condition`, where nothing is encoded twice."""
        return imitation_loss(model, batch, model.condition(batch.observation), generator), {}


def imitation_loss(
    model: VisuomotorPolicy, batch: Batch, condition: Condition, generator: SampleGenerator
) -> Float[Tensor, ""]:
    """Published plain mean over batch, horizon and all 128 slots; `condition` is what the batch's observation says."""
    mask = batch.action_mask[:, None]
    actions = model.condition.scale_actions(batch.actions, mask)
    noise = generator.normal(batch.sample_index, tuple(actions.shape[1:]), "noise")
    num_timesteps = model.policy.config.num_train_timesteps
    return model.policy.compute_loss(
        lang_tokens=condition.lang_tokens,
        lang_attn_mask=condition.lang_attn_mask,
        lang_index=condition.lang_index,
        img_tokens=condition.img_tokens,
        state_tokens=condition.state_tokens,
        action_gt=actions,
        action_mask=condition.action_mask,
        ctrl_freqs=condition.ctrl_freqs,
        noise=model.place_noise(noise, mask),
        timesteps=generator.integers(batch.sample_index, num_timesteps, "timestep"),
    )
