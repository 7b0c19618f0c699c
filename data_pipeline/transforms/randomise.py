"""All that training does to an observation, in its order: what a network is shown is never quite what was recorded.

shift -> state noise -> dropout -> augmentation of the frames that are still seen. Every draw follows from (seed, index,
purpose), so that one may be switched on without changing the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from data_pipeline.randomness import sample_rng
from data_pipeline.schema.types import Observation
from data_pipeline.transforms.augment import Augmentation, AugmentConfig, apply, draw_sample
from data_pipeline.transforms.dropout import Conditions, DropoutRates, draw_dropout, drop_conditions
from data_pipeline.transforms.images import random_shift
from data_pipeline.transforms.noise import add_state_noise


@dataclass(frozen=True)
class Randomisation:
    """What is done to the observations of a run; by default nothing."""

    seed: int
    image_history: int
    dropout: DropoutRates | None = None
    mean_states: np.ndarray | None = None  # (stores, 128): what stands for a dropped state, by store
    random_shift_px: int = 0
    state_noise_snr_db: float | None = None
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None and self.mean_states is None:
            raise ValueError("dropout needs mean_states, which stand for a dropped state")

    def __call__(
        self, observation: Observation, index: int, store: int, state_deviation: Callable[[], np.ndarray]
    ) -> Observation | Conditions:
        """The observation of sample `index`, read from `store`; `state_deviation()` (128,) is that of its episode."""
        if self.random_shift_px:
            rng = self._rng(index, "random shift")
            frames = {role: random_shift(seen, self.random_shift_px, rng) for role, seen in observation.images.items()}
            observation = replace(observation, images=frames)
        if self.state_noise_snr_db is not None:
            rng, deviation = self._rng(index, "state noise"), state_deviation()
            noisy = add_state_noise(observation.state, observation.state_mask, deviation, self.state_noise_snr_db, rng)
            observation = replace(observation, state=noisy)
        told: Observation | Conditions = observation
        if self.dropout is not None and self.mean_states is not None:
            dropped = draw_dropout(self._rng(index, "dropout"), self.dropout, self.image_history)
            told = drop_conditions(observation, dropped, self.mean_states[store])
        if self.augment is not None:
            drawn = draw_sample(self._rng(index, "augment"), self.augment, self.image_history)
            images = {
                role: _augmented(frames, told.image_masks[role], drawn[role]) for role, frames in told.images.items()
            }
            told = replace(told, images=images)
        return told

    def _rng(self, index: int, purpose: str) -> np.random.Generator:
        return sample_rng(self.seed, index, purpose)


def _augmented(frames: np.ndarray, mask: np.ndarray, drawn: tuple[Augmentation, ...]) -> np.ndarray:
    """Frames (frames, height, width, 3); those that are not seen stay as they are."""
    rows = list(frames)
    changed = [apply(row, todo) if seen else row for row, seen, todo in zip(rows, mask, drawn, strict=True)]
    return frames if all(one is other for one, other in zip(changed, rows, strict=True)) else np.stack(changed)
