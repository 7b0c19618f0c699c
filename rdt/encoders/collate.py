"""Observations side by side: the part of the road to the network that needs no encoder, in numpy alone.

It knows a few sizes and nothing else, so a loader's workers hold no weights and touch no GPU. The words stay words,
which `ConditionEncoder.with_words` turns into ids or features where the text encoder is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data_pipeline.schema.types import Observation
from data_pipeline.transforms.dropout import Conditions
from data_pipeline.transforms.images import BACKGROUND, brighten_dark, pad_square, resize


@dataclass(frozen=True)
class Collated:
    """An `ObservationBatch` before its words, under the same names."""

    images: np.ndarray  # uint8 (batch, image, height, width, 3)
    image_mask: np.ndarray  # bool (batch, image)
    sentences: tuple[str, ...]  # each distinct instruction once
    text_index: np.ndarray  # int64 (batch,)
    state: np.ndarray  # float32 (batch, 128)
    slot_mask: np.ndarray  # float32 (batch, 128)
    state_present: np.ndarray  # bool (batch, 128)
    control_hz: np.ndarray  # float32 (batch,)


@dataclass(frozen=True)
class Collator:
    """Observations -> `Collated`, pictures square and of the vision encoder's size, by Pillow, the reference."""

    cameras: tuple[str, ...]  # order in which their tokens stand
    image_history: int  # frames per camera
    image_size: int
    brighten_dark: bool

    def buffer(self, batch_size: int) -> np.ndarray:
        """Memory for the pictures of a batch, uninitialised uint8 (batch, image, height, width, 3)."""
        num_images = len(self.cameras) * self.image_history
        return np.empty((batch_size, num_images, self.image_size, self.image_size, 3), dtype=np.uint8)

    def __call__(self, observations: Iterable[Observation | Conditions], images: np.ndarray) -> Collated:
        """Pictures go into `images`, a `buffer` or one without pixels; missing ones become background.

        Each observation is done with before the next one is asked for, so that its memory serves that one again.
        """
        image_mask = np.zeros(images.shape[:2], dtype=bool)
        numbers: dict[str, int] = {}
        rows = []
        for row, observation in enumerate(observations):
            for column, frame in enumerate(self.pictures(observation)):
                image_mask[row, column] = frame is not None
                if images.size:
                    self._square_into(images[row, column], frame)
            number = numbers.setdefault(observation.instruction, len(numbers))
            rows.append(
                (number, observation.state, observation.state_mask, _present(observation), observation.control_hz)
            )
        text_index, state, slot_mask, state_present, control_hz = zip(*rows, strict=True)
        return Collated(
            images=images,
            image_mask=image_mask,
            sentences=tuple(numbers),
            text_index=np.array(text_index),
            state=np.stack(state),
            slot_mask=np.stack(slot_mask).astype(np.float32),
            state_present=np.stack(state_present),
            control_hz=np.array(control_hz, dtype=np.float32),
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

    def _square_into(self, square: np.ndarray, frame: np.ndarray | None) -> None:
        """A frame that needs no resampling is moved once; None is background."""
        if frame is None:
            square[...] = BACKGROUND
            return
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


def _present(observation: Observation | Conditions) -> np.ndarray:
    """Slots that hold a state, whatever training hides of the mask, bool (128,)."""
    return observation.state_mask if isinstance(observation, Observation) else observation.state_present
