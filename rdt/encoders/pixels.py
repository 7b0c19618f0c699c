"""Pictures on their way to a vision encoder, as pure torch functions that run on any device.

The reference is `data_pipeline/transforms/images.py`, which Pillow computes on a CPU. What stands here does the same
within two grey levels (0.016 of the encoder's range) where the pictures already are on a GPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, UInt8
from torch import Tensor

from data_pipeline.transforms.images import BACKGROUND, BRIGHTENING, DARK_MEAN

Channels = tuple[float, float, float]


def to_square(
    images: UInt8[Tensor, "image height width 3"], size: int, *, brighten: bool = False
) -> UInt8[Tensor, "image size size 3"]:
    """Pad with the background to a square, then resize bicubically with antialiasing.

    Width first, then height, rounded to whole levels in between: that is Pillow's order, and overshoots are cut
    where it cuts them.
    """
    if brighten:
        images = brighten_dark(images)
    height, width = images.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    margins = (0, 0, left, side - width - left, top, side - height - top)
    square = F.pad(images, margins, value=BACKGROUND)
    if side == size:
        return square
    maps = square.permute(0, 3, 1, 2).float()
    for shape in ((side, size), (size, size)):
        maps = F.interpolate(maps, shape, mode="bicubic", antialias=True).round().clamp(0, 255)
    return maps.to(torch.uint8).permute(0, 2, 3, 1)


def brighten_dark(images: UInt8[Tensor, "image height width 3"]) -> UInt8[Tensor, "image height width 3"]:
    """Dark pictures 1.75 times as bright; without a look at the numbers from the host."""
    values = images.float()
    dark = values.mean(dim=(1, 2, 3), keepdim=True) <= DARK_MEAN * 255
    return torch.where(dark, (values * BRIGHTENING).clamp(max=255), values).to(torch.uint8)


def normalise(
    images: UInt8[Tensor, "image height width 3"], mean: Channels, std: Channels
) -> Float[Tensor, "image 3 height width"]:
    """(x / 255 - mean) / std by channel, float32. Plain numbers all the way: nothing is copied to the device."""
    maps = images.permute(0, 3, 1, 2).float()
    factors = [(255 * s, m / s) for m, s in zip(mean, std, strict=True)]
    if len(set(factors)) == 1:  # one pass, and the memory stays as it lies
        (scale, shift), *_ = factors
        return maps / scale - shift
    return torch.stack([maps[:, c] / scale - shift for c, (scale, shift) in enumerate(factors)], dim=1)
