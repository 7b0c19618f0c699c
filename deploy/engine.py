"""From an observation to an action chunk: the one place where the network runs for a robot.

The same code serves a single robot and many simulated ones side by side. Eager for now, on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.schema.types import ActionChunk, Observation
from rdt.batch import Condition
from rdt.random import SampleGenerator
from rdt.train.checkpoint import Checkpoint, load_checkpoint


class InferenceEngine:
    """Holds a policy on a device and turns observations into stamped chunks."""

    def __init__(
        self, policy_or_checkpoint: str | Path | Checkpoint, device: str | torch.device = "cpu", seed: int = 0
    ) -> None:
        """Open a checkpoint folder, or take one already loaded; `seed` fixes the sampling noise."""
        if not isinstance(policy_or_checkpoint, Checkpoint):
            policy_or_checkpoint = load_checkpoint(policy_or_checkpoint, device)
        self.model = policy_or_checkpoint.model
        self.robot = policy_or_checkpoint.robot
        self._noise = SampleGenerator(seed)
        self._num_calls = 0

    @property
    def horizon(self) -> int:
        """Actions in one chunk."""
        return self.model.horizon

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera roles that the policy looks at."""
        return self.model.condition.config.cameras

    def predict(self, observation: Observation) -> ActionChunk:
        """One observation -> one chunk; each call draws fresh noise."""
        self._num_calls += 1
        return self.predict_batch([observation], [self._num_calls])[0]

    def predict_batch(self, observations: Sequence[Observation], noise_keys: Sequence[int]) -> list[ActionChunk]:
        """Chunks of independent observations in one pass; equal keys draw equal noise, whatever the batch."""
        batch = self.model.observe(observations)
        keys = torch.tensor(noise_keys, device=self.model.device)
        noise = self._noise.normal(keys, (self.horizon, batch.state.shape[1]), "sampling noise")
        actions = self.model.sample_actions(batch, noise).cpu().numpy().astype(np.float32)
        return [self._chunk(observation, rows) for observation, rows in zip(observations, actions, strict=True)]

    def sample(
        self, condition: Condition, noise: Float[Tensor, "batch horizon slot"] | None = None
    ) -> Float[Tensor, "batch horizon slot"]:
        """The denoising loop alone, in the network's scaled space; equals `RDTPolicy.predict_action`."""
        with torch.inference_mode():
            return self.model.policy.predict_action(**vars(condition), noise=noise)

    def _chunk(self, observation: Observation, actions: np.ndarray) -> ActionChunk:
        step_ns = round(1e9 / observation.control_hz)
        return ActionChunk(
            start_ns=observation.stamp_ns + self.robot.action_offset_steps * step_ns,
            rate_hz=observation.control_hz,
            actions=actions,
            mask=observation.state_mask,
        )
