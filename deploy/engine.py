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

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk, Observation
from rdt.batch import Condition
from rdt.model.policy import RDTPolicy
from rdt.random import SampleGenerator
from rdt.train.checkpoint import Checkpoint, load_checkpoint
from rdt.visuomotor import VisuomotorPolicy


class InferenceEngine:
    """Holds a policy on a device and turns observations into stamped chunks.

    A bare `RDTPolicy` reads tokens only: it can `sample`, but to `predict` takes a checkpoint, which knows the
    encoders and the robot.
    """

    def __init__(
        self,
        policy_or_checkpoint: RDTPolicy | Checkpoint | str | Path,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        """Take a policy, a loaded checkpoint or the path of one; `seed` fixes the sampling noise of `predict`."""
        self._noise = SampleGenerator(seed)
        self._num_calls = 0
        self._checkpoint: Checkpoint | None = None
        if isinstance(policy_or_checkpoint, RDTPolicy):
            self.policy = policy_or_checkpoint.to(device).eval()
            return
        if not isinstance(policy_or_checkpoint, Checkpoint):
            policy_or_checkpoint = load_checkpoint(policy_or_checkpoint, device)
        self._checkpoint = policy_or_checkpoint
        self.policy = policy_or_checkpoint.model.to(device).eval().policy

    @property
    def model(self) -> VisuomotorPolicy:
        """Encoders and policy."""
        return self._loaded().model

    @property
    def robot(self) -> Embodiment:
        """The robot that the policy was trained for."""
        return self._loaded().robot

    @property
    def horizon(self) -> int:
        """Actions in one chunk."""
        return self.policy.config.pred_horizon

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera roles that the policy looks at and the robot has."""
        return tuple(role for role in self.model.condition.config.cameras if role in self.robot.cameras)

    @property
    def image_history(self) -> int:
        """Frames per camera that the policy looks at."""
        return self.model.condition.config.image_history

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
            if noise is None:
                shape = (len(condition.state_tokens), self.horizon, self.policy.config.action_dim)
                noise = torch.randn(shape, device=self.policy.device)
                if self._checkpoint:
                    noise = self.model.place_noise(noise, condition.action_mask)
            return self.policy.predict_action(**vars(condition), noise=noise)

    def _loaded(self) -> Checkpoint:
        if self._checkpoint is None:
            raise ValueError("this engine holds a bare policy without encoders and robot: open a checkpoint folder")
        return self._checkpoint

    def _chunk(self, observation: Observation, actions: np.ndarray) -> ActionChunk:
        step_ns = round(1e9 / observation.control_hz)
        return ActionChunk(
            start_ns=observation.stamp_ns + self.robot.action_offset_steps * step_ns,
            rate_hz=observation.control_hz,
            actions=actions,
            mask=observation.state_mask,
        )
