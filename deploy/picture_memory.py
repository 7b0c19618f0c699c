"""Features of the pictures that were seen last: a frame is encoded once, although the network reads it twice.

RDT looks at two frames a camera. When a chunk is asked for at every step, yesterday's newest frame is today's older
one. Frames are recognised by their pixels, not by their stamps: features of another picture would move an arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data_pipeline.schema.types import Observation
from deploy.capture import Captured
from rdt.encoders.condition import ConditionEncoder


class New(NamedTuple):
    """A picture that the vision encoder has yet to see."""

    camera: int  # place among the encoder's cameras
    frame: np.ndarray  # uint8 (height, width, 3)
    square: UInt8[Tensor, "size size 3"]  # on the device


class Known(NamedTuple):
    """A picture and what the vision encoder made of it."""

    camera: int
    frame: np.ndarray
    features: Float[Tensor, "token dim"]


class PictureMemory:
    """Pictures of one robot, observation after observation; every call without gradients."""

    def __init__(self, encoder: ConditionEncoder, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._known: list[Known] = []  # of the latest observation
        self._captured: dict[int, Captured] = {}
        self.num_encoded = 0  # pictures that went through the vision encoder

    def capture(self, counts: set[int]) -> None:
        """Record the vision encoder in a CUDA graph for each number of new pictures that will come at once."""
        self._encoder.background_features()  # reads the weights of a frozen tower, which a graph could not
        size = self._encoder.vision.image_size
        for count in sorted(counts):
            pictures = torch.zeros(count, size, size, 3, dtype=torch.uint8, device=self._device)
            self._captured[count] = Captured(self._encoder.encode_images, [pictures], capture=True)

    def prepare(self, observation: Observation) -> list[New | Known | None]:
        """The pictures in the network's order; None where one is missing."""
        cameras = len(self._encoder.config.cameras)
        frames = self._encoder.collate_pictures(observation)
        pictures: list[New | Known | None] = [
            None if frame is None else self._recall(place % cameras, frame) for place, frame in enumerate(frames)
        ]
        new = [(place, frame) for place, frame in enumerate(frames) if frame is not None and pictures[place] is None]
        squares = self._encoder.squares([frame for _, frame in new], self._device)
        for (place, frame), square in zip(new, squares, strict=True):
            pictures[place] = New(place % cameras, frame, square)
        return pictures

    def features(self, pictures: Sequence[New | Known | None]) -> Float[Tensor, "1 image token dim"]:
        """Features of all pictures; only new ones are encoded, a missing one has those of the background."""
        new = [picture.square for picture in pictures if isinstance(picture, New)]
        encoded = iter(self._encode(torch.stack(new)) if new else ())
        background = self._encoder.background_features()
        self._known, tokens = [], []
        for picture in pictures:
            if isinstance(picture, New):
                picture = Known(picture.camera, picture.frame.copy(), next(encoded))
            if picture is not None:
                self._known.append(picture)
            tokens.append(background if picture is None else picture.features)
        return torch.stack(tokens)[None]

    def _recall(self, camera: int, frame: np.ndarray) -> Known | None:
        for known in self._known:
            if known.camera == camera and _equal(known.frame, frame):
                return known
        return None

    def _encode(self, pictures: Tensor) -> Tensor:
        self.num_encoded += len(pictures)
        for count, captured in self._captured.items():
            if count >= len(pictures):
                padded = torch.nn.functional.pad(pictures, (0, 0, 0, 0, 0, 0, 0, count - len(pictures)))
                return captured(padded)[: len(pictures)].clone()  # the next call overwrites it
        return self._encoder.encode_images(pictures)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Same picture; a coarse look first, because most pictures differ."""
    return a.shape == b.shape and np.array_equal(a[::29, ::31], b[::29, ::31]) and np.array_equal(a, b)
