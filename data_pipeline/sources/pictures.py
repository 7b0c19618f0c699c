"""Encoded camera frames of any common coding: JPEG keeps its bytes, the others are decoded when indexed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from data_pipeline.frames import Colour, JpegFrames, decode_jpeg
from data_pipeline.schema.types import Frames

_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


def encoded_frames(encoded: Sequence[bytes], name: str) -> Frames:
    """Frames of one camera, whole or damaged: a damaged one raises `ValueError` when it is indexed."""
    if all(frame.startswith(_JPEG_START) or not frame for frame in encoded):
        return JpegFrames(encoded, name=name)
    return PictureFrames(encoded, name=name)


def decode_picture(encoded: bytes, colour: Colour = "rgb") -> np.ndarray:
    """JPEG, PNG or what else Pillow knows -> RGB uint8 (height, width, 3); 16-bit grey, a depth picture, keeps its
    numbers: uint16 (height, width, 1). Raises `ValueError` for a picture that is cut short.
    """
    if encoded.startswith(_JPEG_START):
        return decode_jpeg(encoded, colour)
    if encoded.startswith(_PNG_START) and not encoded.rstrip(b"\0").endswith(_PNG_END):
        raise ValueError(f"a PNG of {len(encoded)} bytes has no end marker: it is cut short")
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            if picture.mode.startswith("I"):
                return np.asarray(picture).astype(np.uint16)[..., None]
            frame = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"a picture of {len(encoded)} bytes cannot be decoded: {error}") from None
    return frame if colour == "rgb" else np.ascontiguousarray(frame[..., ::-1])


class PictureFrames(Sequence[np.ndarray]):
    """Frames of one camera in any coding, decoded one at a time when indexed."""

    def __init__(self, encoded: Sequence[bytes], colour: Colour = "rgb", name: str = "frames") -> None:
        self.encoded = encoded
        self.colour = colour
        self.name = name  # what an error calls it: file and camera

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        try:
            return decode_picture(self.encoded[step], self.colour)
        except ValueError as error:
            raise ValueError(f"{self.name}, frame {step}: {error}") from None

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[step] for step in range(len(self)))
