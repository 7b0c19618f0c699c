"""Observations side by side as CPU tensors: the part of the road to the network that needs no encoder.

It knows a few sizes and nothing else, so a loader's workers hold no weights and touch no GPU; the words stay words,
which `ConditionEncoder.with_words` turns into ids or features where the text encoder is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from data_pipeline.schema.types import Observation
from data_pipeline.transforms.dropout import Conditions
from data_pipeline.transforms.images import BACKGROUND, brighten_dark, pad_square, resize


@dataclass(frozen=True)
class Collated:
    """An `ObservationBatch` whose instructions are sentences still."""

    images: UInt8[Tensor, "batch image height width 3"]
    image_mask: Bool[Tensor, "batch image"]
    sentences: tuple[str, ...]  # each distinct instruction once
    text_index: Int[Tensor, " batch"]
    state: Float[Tensor, "batch slot"]
    slot_mask: Float[Tensor, "batch slot"]
    state_present: Bool[Tensor, "batch slot"]
    control_hz: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Collator:
    """Observations -> `Collated`, pictures square and of the vision encoder's size, by Pillow, the reference."""

    cameras: tuple[str, ...]  # order in which their tokens stand
    image_history: int  # frames per camera
    image_size: int
    brighten_dark: bool

    def __call__(self, observations: Sequence[Observation | Conditions], *, resize_pictures: bool = True) -> Collated:
        """Missing pictures become background. Without `resize_pictures`, `images` has no pixels."""
        size = self.image_size if resize_pictures else 0
        order = self._image_order()
        images = _shared_bytes((len(observations), len(order), size, size, 3))
        pixels = images.numpy()
        image_mask = np.zeros(images.shape[:2], dtype=bool)
        for row, observation in enumerate(observations):
            for column, frame in enumerate(self.pictures(observation)):
                image_mask[row, column] = frame is not None
                if resize_pictures and frame is None:
                    pixels[row, column] = BACKGROUND
                elif resize_pictures:
                    self._square_into(pixels[row, column], frame)
        sentences = tuple(dict.fromkeys(o.instruction for o in observations))
        number = {sentence: i for i, sentence in enumerate(sentences)}
        return Collated(
            images=images,
            image_mask=torch.from_numpy(image_mask),
            sentences=sentences,
            text_index=torch.tensor([number[o.instruction] for o in observations]),
            state=torch.from_numpy(np.stack([o.state for o in observations])),
            slot_mask=torch.from_numpy(np.stack([o.state_mask for o in observations]).astype(np.float32)),
            state_present=torch.from_numpy(np.stack([_present(o) for o in observations])),
            control_hz=torch.tensor([o.control_hz for o in observations], dtype=torch.float32),
        )

    def pictures(self, observation: Observation | Conditions) -> list[np.ndarray | None]:
        """The raw frames (height, width, 3) in the network's order; None where one is missing, invalid or hidden."""
        pictures: list[np.ndarray | None] = []
        for role, age in self._image_order():
            frames = observation.images.get(role)
            there = frames is not None and age < len(frames) and observation.image_masks[role][-1 - age]
            pictures.append(frames[-1 - age] if there else None)  # type: ignore[index]
        return pictures

    def square(self, frame: np.ndarray) -> np.ndarray:
        """One raw frame as the vision encoder takes it, (image_size, image_size, 3)."""
        square = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        self._square_into(square, frame)
        return square

    def _square_into(self, square: np.ndarray, frame: np.ndarray) -> None:
        """Written once to where it stays; a frame that needs no resampling is only moved."""
        frame = brighten_dark(frame) if self.brighten_dark else frame
        height, width = frame.shape[:2]
        if max(height, width) != self.image_size:
            square[...] = resize(pad_square(frame), self.image_size, self.image_size)
            return
        top, left = (self.image_size - height) // 2, (self.image_size - width) // 2
        square[:top], square[top + height :] = BACKGROUND, BACKGROUND
        square[:, :left], square[:, left + width :] = BACKGROUND, BACKGROUND
        square[top : top + height, left : left + width] = frame

    def _image_order(self) -> list[tuple[str, int]]:
        """(camera role, age in frames) of each picture: oldest frame first, cameras in order within a frame."""
        ages = range(self.image_history - 1, -1, -1)
        return [(role, age) for age in ages for role in self.cameras]


def _shared_bytes(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """Memory for pictures, uninitialised: in a loader's worker such as the other process sees without a copy."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))  # as torch's own collate function does
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)  # type: ignore[call-overload]


def _present(observation: Observation | Conditions) -> np.ndarray:
    """Slots that hold a state, whatever training hides of the mask, bool (128,)."""
    return observation.state_mask if isinstance(observation, Observation) else observation.state_present
