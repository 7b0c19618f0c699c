"""Pictures: brightening, random shift, padding to a square, resizing. Pure functions on RGB uint8 arrays.

Colour jitter and the corruptions of spec rdt.md section 10 are in augment.py.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BACKGROUND = 127
"""Grey of padding and of missing pictures: int(255 * 0.5), the vision encoder's mean colour."""

DARK_MEAN = 0.15
"""Mean brightness of [0, 1] up to which the published preprocessing calls a picture dark."""

BRIGHTENING = 1.75
"""Factor that it multiplies dark pictures by."""


def brighten_dark(frame: np.ndarray) -> np.ndarray:
    """A dark (height, width, 3) picture 1.75 times as bright, any other as it is (spec rdt.md section 6.1).

    Fractions are cut off, as Pillow does.
    """
    if frame.mean() > DARK_MEAN * 255:
        return frame
    return np.minimum(frame.astype(np.float32) * BRIGHTENING, 255).astype(np.uint8)


def random_shift(frames: np.ndarray, max_pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Move (..., height, width, 3) by up to `max_pixels` in each direction, edges repeated.

    One shift for all frames of the array: the motion between the frames of a history stays what it was.
    """
    down, right = rng.integers(-max_pixels, max_pixels + 1, size=2)
    return _shifted(_shifted(frames, down, axis=-3), right, axis=-2)


def _shifted(frames: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Slices instead of an index array: three times as fast on small pictures."""
    shifted = np.empty_like(frames)
    source, target = np.moveaxis(frames, axis, 0), np.moveaxis(shifted, axis, 0)
    by = max(-len(source), min(by, len(source)))
    if by >= 0:
        target[by:], target[:by] = source[: len(source) - by], source[0]
    else:
        target[:by], target[by:] = source[-by:], source[-1]
    return shifted


def pad_square(frames: np.ndarray) -> np.ndarray:
    """(..., height, width, 3) in the middle of a background square whose side is the longer one.

    An odd margin puts the extra line below or to the right, as in the published preprocessing.
    """
    height, width = frames.shape[-3:-1]
    side = max(height, width)
    square = np.full((*frames.shape[:-3], side, side, 3), BACKGROUND, dtype=frames.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[..., top : top + height, left : left + width, :] = frames
    return square


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """(..., h, w, 3) uint8 -> (..., height, width, 3): antialiased bicubic exactly as Pillow does it."""
    if frames.shape[-3:-1] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    resized = [np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)) for frame in flat]
    return np.array(resized, dtype=np.uint8).reshape(*frames.shape[:-3], height, width, 3)
