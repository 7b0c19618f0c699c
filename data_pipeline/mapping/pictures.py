"""Frames of a record as the episode shows them: some of the steps, channels in RGB order, broken pictures masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.frames import Colour, JpegFrames
from data_pipeline.schema.types import Frames
from data_pipeline.transforms.images import BACKGROUND

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def is_complete(encoded: bytes) -> bool:
    """Whether a JPEG or PNG reaches its end marker: some decoders return half a picture without a word."""
    encoded = encoded.rstrip(b"\0")
    if encoded.startswith(_PNG):
        return encoded.endswith(_PNG_END)
    return encoded.startswith(_JPEG) and encoded.endswith(_JPEG_END)


def complete_frames(frames: Frames) -> np.ndarray:
    """bool (frames,): False where an encoded picture is cut short or none. Arrays are whole by nature."""
    if isinstance(frames, ChosenFrames):
        return complete_frames(frames.source)[frames.steps]
    encoded = getattr(frames, "encoded", None)
    if encoded is None:
        return np.ones(len(frames), dtype=bool)
    return np.array([is_complete(picture) for picture in encoded], dtype=bool)


def select_frames(frames: Frames, steps: np.ndarray, colour: Colour, good: np.ndarray) -> Frames:
    """The frames of `steps`; `colour` bgr reverses the channels after decoding.

    Frames where `good` (frames,) is False become a background picture of their neighbours' size. JPEG bytes stay what
    they are as long as every frame is good.
    """
    steps = np.asarray(steps)
    if type(frames) is JpegFrames and good[steps].all():
        encoded = [frames.encoded[step] for step in steps]
        return JpegFrames(encoded, frames.colour if colour == "rgb" else _OTHER[frames.colour], frames.name)
    if isinstance(frames, np.ndarray) and good[steps].all():
        return frames[steps] if colour == "rgb" else frames[steps][..., ::-1]
    return ChosenFrames(frames, steps, reverse=colour == "bgr", good=good)


_OTHER: dict[Colour, Colour] = {"rgb": "bgr", "bgr": "rgb"}


class ChosenFrames(Sequence[np.ndarray]):
    """Some frames of one camera, read and decoded one at a time when indexed."""

    def __init__(self, frames: Frames, steps: np.ndarray, *, reverse: bool, good: np.ndarray) -> None:
        self.source, self.steps = frames, steps
        self._reverse, self._good = reverse, good

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        step = int(self.steps[index])
        if not self._good[step]:
            whole = np.flatnonzero(self._good)
            beside = whole[np.argmin(np.abs(whole - step))]
            return np.full_like(self.source[int(beside)], BACKGROUND)
        frame = np.asarray(self.source[step])
        return np.ascontiguousarray(frame[..., ::-1]) if self._reverse else frame
