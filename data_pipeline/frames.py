"""Camera frames kept as JPEG and decoded when asked for: the form in which stores and recordings hold them.

Frames are RGB uint8 (height, width, 3) on both sides of the coder. simplejpeg decodes where it is installed, in half
of Pillow's time and to the same bits.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import Image

from data_pipeline.schema.types import Frames

try:
    import simplejpeg  # type: ignore[import-untyped]
except ImportError:
    simplejpeg = None

Colour = Literal["rgb", "bgr"]
"""Channel order that a standard decoder returns; bgr where a recorder gave RGB arrays to a BGR encoder."""

JPEG_QUALITY = 95
HALVED_COLOUR_FROM = 256  # pixels of the longer side
_END_MARKER = b"\xff\xd9"


def encode_jpeg(frame: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """RGB uint8 (height, width, 3) -> a standard JPEG.

    Small pictures keep their colour at full resolution, or objects of a few pixels would lose it; larger ones have
    it halved as usual, which halves the time of decoding.
    """
    check_frame(frame)
    buffer = io.BytesIO()
    subsampling = "4:2:0" if max(frame.shape) >= HALVED_COLOUR_FROM else "4:4:4"
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def decode_jpeg(encoded: bytes, colour: Colour = "rgb", out: np.ndarray | None = None) -> np.ndarray:
    """JPEG (trailing NUL padding allowed) -> RGB uint8 (height, width, 3), in the memory of `out` if that is given.

    Raises `ValueError` for a picture that is cut short, which some decoders return half grey without a word, and for
    one of another size than `out`.
    """
    encoded = encoded.rstrip(b"\0")
    if not encoded.endswith(_END_MARKER):
        raise ValueError(f"a JPEG of {len(encoded)} bytes has no end marker: it is cut short or no JPEG")
    try:
        if out is not None and (size := jpeg_size(encoded)) != out.shape[:2]:
            raise ValueError(f"its size is {size}, not {out.shape[:2]}")
        frame = simplejpeg.decode_jpeg(encoded, buffer=out) if simplejpeg else _decode_slowly(encoded)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"a JPEG of {len(encoded)} bytes cannot be decoded: {error}") from None
    frame = frame if colour == "rgb" else np.ascontiguousarray(frame[..., ::-1])
    if out is None:
        return frame
    if not simplejpeg or colour != "rgb":
        out[...] = frame
    return out


def jpeg_size(encoded: bytes) -> tuple[int, int]:
    """(height, width), from the header alone. Raises `ValueError` for what is no JPEG."""
    try:
        if simplejpeg:
            return simplejpeg.decode_jpeg_header(encoded)[:2]
        with Image.open(io.BytesIO(encoded)) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"a JPEG of {len(encoded)} bytes has no readable header: {error}") from None


def _decode_slowly(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as picture:
        return np.asarray(picture.convert("RGB"))


def check_frame(frame: np.ndarray) -> None:
    if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"a frame must be uint8 of shape (height, width, 3), got {got}")


class JpegFrames(Sequence[np.ndarray]):
    """Frames of one camera, decoded one at a time when indexed."""

    def __init__(self, encoded: Sequence[bytes], colour: Colour = "rgb", name: str = "frames") -> None:
        self.encoded = encoded
        self.colour = colour
        self.name = name  # what an error calls it: file and camera

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        with self._named(step):
            return decode_jpeg(self.encoded[step], self.colour)

    def stacked(self, steps: Sequence[int]) -> np.ndarray:
        """Frames (frames, height, width, 3), all of one size, each decoded to where it stays; repeated ones once."""
        with self._named(steps[0]):
            size = jpeg_size(self.encoded[steps[0]])
        frames = np.empty((len(steps), *size, 3), dtype=np.uint8)
        for row, step in enumerate(steps):
            if row and step == steps[row - 1]:
                frames[row] = frames[row - 1]
            else:
                with self._named(step):
                    decode_jpeg(self.encoded[step], self.colour, frames[row])
        return frames

    @contextmanager
    def _named(self, step: int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}, frame {step}: {error}") from None

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[step] for step in range(len(self)))


def encode_frames(frames: Frames, quality: int = JPEG_QUALITY) -> JpegFrames:
    """Frames as JPEG. Those that are JPEG already keep their bytes: a second coding would cost quality."""
    if isinstance(frames, JpegFrames):
        return frames
    return JpegFrames([encode_jpeg(frame, quality) for frame in frames])
