"""Encoders and network as one module: observations in, action chunks out. What a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_pipeline.schema.types import Observation
from rdt.batch import Condition, ObservationBatch, to_device
from rdt.encoders.condition import ConditionConfig, ConditionEncoder
from rdt.model.policy import RDTPolicy
from rdt.model.presets import RDTConfig


class VisuomotorPolicy(nn.Module):
    """A `ConditionEncoder` and the `RDTPolicy` that reads its tokens."""

    def __init__(self, config: RDTConfig, condition: ConditionConfig) -> None:
        super().__init__()
        self.policy = RDTPolicy(config)
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

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def observe(self, observations: Sequence[Observation]) -> ObservationBatch:
        """Collate observations onto the module's device."""
        return to_device(self.condition.collate(observations), self.device)

    @torch.inference_mode()
    def sample_actions(
        self, batch: ObservationBatch, noise: Float[Tensor, "batch horizon slot"] | None = None
    ) -> Float[Tensor, "batch horizon slot"]:
        """Action chunks in unscaled unified units; slots outside the mask are 0."""
        condition: Condition = self.condition(batch)
        actions = self.policy.predict_action(**vars(condition), noise=noise)
        return self.condition.unscale_actions(actions, condition.action_mask)
