"""Condition dropout of training (spec rdt.md section 10): what the network is not told about a sample.

Each condition goes independently: the state becomes the data set's mean, the state's mask all false, an
image slot invalid (the encoder shows the background), the instruction empty, the control frequency 0. The
draw is apart from its use, so that a draw can be counted and fixed. State noise (section 10) is in noise.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from data_pipeline.schema.types import CAMERA_ROLES, Observation


@dataclass(frozen=True)
class DropoutRates:
    """Probability of losing each condition; the defaults are the published ones."""

    state: float = 0.1
    state_mask: float = 0.1
    image: float = 0.1  # each camera and frame for itself
    external: float | None = None  # the external camera's own probability, if it has one
    instruction: float = 0.1
    control_hz: float = 0.1

    def __post_init__(self) -> None:
        for f in fields(self):
            rate = getattr(self, f.name)
            if rate is not None and not 0 <= rate <= 1:
                raise ValueError(f"dropout rate {f.name} must be in [0, 1], got {rate}")


@dataclass(frozen=True)
class Dropped:
    """The conditions that one sample loses."""

    state: bool
    state_mask: bool
    images: Mapping[str, np.ndarray]  # role -> bool (frames,)
    instruction: bool
    control_hz: bool


@dataclass(frozen=True)
class Conditions:
    """An `Observation` as the network is told it, field by field under the same names.

    Unlike an observation it may hold values whose mask was dropped, and a rate of 0 for an unknown one.
    """

    state: np.ndarray  # float32 (128,)
    state_mask: np.ndarray  # bool (128,); the network's action tokens carry it too
    state_present: np.ndarray  # bool (128,), the mask before it was dropped: where `state` holds a value
    images: Mapping[str, np.ndarray]  # role -> uint8 (frames, height, width, 3)
    image_masks: Mapping[str, np.ndarray]  # role -> bool (frames,)
    instruction: str
    control_hz: float


def draw_dropout(rng: np.random.Generator, rates: DropoutRates, image_history: int) -> Dropped:
    """Draw what a sample loses. The number of draws does not depend on which cameras the sample has."""
    state, state_mask, instruction, control_hz, *images = rng.random(4 + len(CAMERA_ROLES) * image_history)
    per_camera = np.reshape(images, (len(CAMERA_ROLES), image_history))
    image_rates = dict.fromkeys(CAMERA_ROLES, rates.image)
    if rates.external is not None:
        image_rates["external"] = rates.external
    return Dropped(
        state=bool(state < rates.state),
        state_mask=bool(state_mask < rates.state_mask),
        images={role: draws < image_rates[role] for role, draws in zip(CAMERA_ROLES, per_camera, strict=True)},
        instruction=bool(instruction < rates.instruction),
        control_hz=bool(control_hz < rates.control_hz),
    )


def drop_conditions(observation: Observation, dropped: Dropped, mean_state: np.ndarray) -> Conditions:
    """The observation without what is dropped; `mean_state` (128,) is the mean of the data set's states."""
    mask = observation.state_mask
    state = np.where(mask, mean_state, 0).astype(np.float32) if dropped.state else observation.state
    return Conditions(
        state=state,
        state_mask=np.zeros_like(mask) if dropped.state_mask else mask,
        state_present=mask,
        images=observation.images,
        image_masks={role: valid & ~dropped.images[role] for role, valid in observation.image_masks.items()},
        instruction="" if dropped.instruction else observation.instruction,
        control_hz=0.0 if dropped.control_hz else observation.control_hz,
    )
