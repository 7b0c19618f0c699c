"""Encoders and network as one module: observations in, action chunks out. What a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.schema.types import Observation
from rdt.batch import Condition, ObservationBatch, to_device
from rdt.encoders.condition import ConditionConfig, ConditionEncoder
from rdt.model.policy import RDTPolicy
from rdt.model.presets import RDTConfig
from rdt.trainable import Trainable

NoiseSlots = Literal["all", "live"]


class VisuomotorPolicy(Trainable):
    """A `ConditionEncoder` and the `RDTPolicy` that reads its tokens.

    `noise_slots` says where the diffusion adds noise, in training and in sampling alike: in "all" 128 slots, as
    published, or in the "live" ones, those of the action mask. A small network on one robot learns several times
    faster when it need not find out first that 114 of its inputs are nothing but noise.
    """

    def __init__(
        self, policy: RDTConfig | RDTPolicy, condition: ConditionConfig, noise_slots: NoiseSlots = "all"
    ) -> None:
        """Around a policy that is there already, or a fresh one of a config."""
        super().__init__()
        self.noise_slots = noise_slots
        self.policy = policy if isinstance(policy, RDTPolicy) else RDTPolicy(policy)
        config = self.policy.config
        self.condition = ConditionEncoder(
            condition,
            lang_token_dim=config.lang_token_dim,
            max_lang_tokens=config.max_lang_cond_len,
            img_token_dim=config.img_token_dim,
            img_cond_len=config.img_cond_len,
        )

    @property
    def horizon(self) -> int:
        """Actions in one chunk."""
        return self.policy.config.pred_horizon

    def observe(self, observations: Sequence[Observation]) -> ObservationBatch:
        """Collate observations onto the module's device."""
        return to_device(self.condition.collate(observations), self.device)

    def place_noise(
        self, noise: Float[Tensor, "batch horizon slot"], mask: Float[Tensor, "batch 1 slot"]
    ) -> Float[Tensor, "batch horizon slot"]:
        """Noise where this policy has it."""
        return noise * mask if self.noise_slots == "live" else noise

    @torch.inference_mode()
    def sample_actions(
        self, batch: ObservationBatch, noise: Float[Tensor, "batch horizon slot"]
    ) -> Float[Tensor, "batch horizon slot"]:
        """Action chunks in unscaled unified units; slots outside the mask are 0."""
        condition: Condition = self.condition(batch)
        noise = self.place_noise(noise, condition.action_mask)
        actions = self.policy.predict_action(**vars(condition), noise=noise)
        return self.condition.unscale_actions(actions, condition.action_mask)
