"""Image augmentation of training: colour jitter and corruptions (spec rdt.md section 10).

A draw is for ONE frame, as published: every camera and every frame of a history draws for itself. Whoever
wants one look for a whole history applies one draw to all of its frames. Only valid frames are to be
augmented, and before they are padded to a square, so that the background keeps its exact grey (section 6.1);
both are the caller's part, who saves the work for frames that dropout hides anyway:

    drawn = draw_sample(sample_rng(seed, index, "augment"), config, image_history)
    frame = apply(frame, drawn[role][number])

What a draw holds are a few numbers; the noise of all pixels follows from a seed among them. Differences from
the published code, which used torchvision and imgaug:

- The four colour operations are one affine matrix, so values are clipped once at the end. Here all four
  commute, hence no random order. Hue turns the plane of chroma about the grey axis and keeps the luma, where
  torchvision goes round HSV's hexagon and keeps the value; the angle is about the same.
- Noise comes from a table of 65536 quantiles, rounded to grey levels: no Gaussian beyond 4.3 deviations.
- A Gaussian kernel reaches to three sigma; imgaug cuts it off at half of that.

Pixels are OpenCV's (extra `augment`), in the caller's thread alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from data_pipeline.schema.types import CAMERA_ROLES

Kind = Literal["corrupt", "colour", "both"]
NoiseKind = Literal["gaussian", "laplace", "poisson"]
BlurKind = Literal["gaussian", "average", "median", "motion"]
T = TypeVar("T")

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the grey of a pixel (ITU-R 601, as in Pillow and torchvision)."""

_NOISES: tuple[NoiseKind, ...] = ("gaussian", "laplace", "poisson")
_STILL_BLURS: tuple[BlurKind, ...] = ("gaussian", "average", "median")
_NUM_DRAWS = 17  # random numbers that a frame takes, whatever becomes of it
_NUM_QUANTILES = 65536  # one per 16 random bits
_TILE_PX = 11  # OpenCV filters directly below 130 coefficients, and above by a far slower Fourier transform
_FIXED_POINT = 64  # sums of a tiled filter are int16: 255 * 64 fits


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how strongly frames are changed; the defaults are the published ones."""

    probability: float = 0.5  # that a frame is changed at all
    kinds: tuple[Kind, ...] = ("corrupt", "colour", "both")  # what happens to it, one of these with equal chances
    brightness: float = 0.3  # pixels times a factor within 1 +- this
    contrast: float = 0.4  # distance from the frame's mean grey, times a factor within 1 +- this
    saturation: float = 0.5  # distance from the pixel's own grey, times a factor within 1 +- this
    hue: float = 0.03  # hue turned by up to this part of a full turn, either way
    noise_scale: float = 12.75  # greatest scale of Gaussian and Laplace noise, in grey levels of 255
    poisson_rate: float = 12.75  # greatest rate of Poisson noise, whose sign is random, in grey levels
    per_channel: float = 0.5  # probability that channels have noise of their own; else all have the same
    blur: float = 0.5  # probability that a corrupted frame is blurred too, before or after the noise
    motion: float = 0.5  # probability that a blur is a motion; else Gaussian, average or median, equally likely
    gaussian_sigma_px: tuple[float, float] = (0.0, 3.0)  # least and greatest standard deviation
    average_px: tuple[int, int] = (2, 7)  # least and greatest side of the square
    median_px: tuple[int, int] = (3, 11)  # the same; an even side grows by one
    motion_px: tuple[int, int] = (3, 36)  # least and greatest length; an even one grows by one

    def __post_init__(self) -> None:
        if not self.kinds or set(self.kinds) - set(get_args(Kind)):
            raise ValueError(f"augmentation kinds must be some of {list(get_args(Kind))}, got {list(self.kinds)}")
        for name in ("probability", "brightness", "contrast", "saturation", "per_channel", "blur", "motion"):
            self._check(name, 0, 1)
        self._check("hue", 0, 0.5)
        self._check("noise_scale", 0, 255)
        self._check("poisson_rate", 0, 255)
        for name, least in (("gaussian_sigma_px", 0), ("average_px", 1), ("median_px", 1), ("motion_px", 1)):
            low, high = getattr(self, name)
            if not least <= low <= high <= 255:
                raise ValueError(
                    f"augmentation {name} must be two ascending numbers in [{least}, 255], got {low, high}"
                )

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ValueError(f"augmentation {name} must be in [{low}, {high}], got {value}")


@dataclass(frozen=True)
class Colour:
    """Colour jitter of one frame; all 1 and 0 turns leave it as it is."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # in turns; red goes to yellow where positive


@dataclass(frozen=True)
class Noise:
    """Noise added to one frame."""

    kind: NoiseKind
    scale: float  # Gaussian: standard deviation, Laplace: mean size, Poisson: rate; in grey levels
    per_channel: bool
    seed: int  # of all its pixels


@dataclass(frozen=True)
class Blur:
    """Blur of one frame."""

    kind: BlurKind
    size_px: float  # Gaussian: standard deviation; else whole pixels
    angle_rad: float = 0.0  # of a motion, from downwards
    lead: float = 0.5  # weight of a motion's first pixel, falling or rising evenly to 1 - lead at its last


@dataclass(frozen=True)
class Augmentation:
    """What happens to one frame: colour first, then noise and blur."""

    colour: Colour | None = None
    noise: Noise | None = None
    blur: Blur | None = None
    blur_first: bool = False


def draw_augmentation(rng: np.random.Generator, config: AugmentConfig) -> Augmentation:
    """Draw what happens to one frame. It always takes the same count of random numbers."""
    return _augmentation(rng.random(_NUM_DRAWS), config)


def draw_sample(
    rng: np.random.Generator, config: AugmentConfig, image_history: int
) -> dict[str, tuple[Augmentation, ...]]:
    """Draw for every frame of a sample: role -> one a frame, oldest first, each independent of all others.

    What a frame gets does not depend on what others got, nor on which cameras the sample has.
    """
    draws = rng.random((len(CAMERA_ROLES), image_history, _NUM_DRAWS))
    return {
        role: tuple(_augmentation(frame, config) for frame in frames)
        for role, frames in zip(CAMERA_ROLES, draws, strict=True)
    }


def _augmentation(draws: np.ndarray, config: AugmentConfig) -> Augmentation:
    """`draws` (_NUM_DRAWS,), uniform in [0, 1), as the augmentation that they stand for."""
    changed, kind, *colour, blur_first = draws[:7].tolist()
    if changed >= config.probability:
        return Augmentation()
    what = _pick(config.kinds, kind)
    return Augmentation(
        colour=None if what == "corrupt" else _colour(colour, config),
        noise=None if what == "colour" else _noise(draws[7:11].tolist(), config),
        blur=None if what == "colour" else _blur(draws[11:].tolist(), config),
        blur_first=blur_first < 0.5,
    )


def _colour(draws: list[float], config: AugmentConfig) -> Colour:
    brightness, contrast, saturation, hue = (2 * draw - 1 for draw in draws)
    return Colour(
        brightness=1 + config.brightness * brightness,
        contrast=1 + config.contrast * contrast,
        saturation=1 + config.saturation * saturation,
        hue=config.hue * hue,
    )


def _noise(draws: list[float], config: AugmentConfig) -> Noise:
    which, strength, per_channel, seed = draws
    kind = _pick(_NOISES, which)
    greatest = config.poisson_rate if kind == "poisson" else config.noise_scale
    return Noise(kind, strength * greatest, per_channel < config.per_channel, int(seed * 2**53))


def _blur(draws: list[float], config: AugmentConfig) -> Blur | None:
    blurred, motion, which, size, angle, lead = draws
    if blurred >= config.blur:
        return None
    if motion < config.motion:
        return Blur("motion", _whole(config.motion_px, size) | 1, 2 * math.pi * angle, lead)
    kind = _pick(_STILL_BLURS, which)
    if kind == "gaussian":
        low, high = config.gaussian_sigma_px
        return Blur(kind, low + (high - low) * size)
    if kind == "average":
        return Blur(kind, _whole(config.average_px, size))
    return Blur(kind, _whole(config.median_px, size) | 1)  # OpenCV's median has a middle pixel


def _pick(choices: Sequence[T], draw: float) -> T:
    return choices[int(draw * len(choices))]


def _whole(limits: tuple[int, int], draw: float) -> int:
    """A whole number between the limits, both included."""
    low, high = limits
    return low + int(draw * (high - low + 1))


def apply(frame: np.ndarray, drawn: Augmentation) -> np.ndarray:
    """The frame (height, width, 3), RGB uint8, with what was drawn done to it.

    Equal draws give equal pixels. The frame is never written to; it is returned itself where nothing is done.
    """
    if drawn.colour is not None:
        frame = jitter_colour(frame, drawn.colour)
    if drawn.blur is not None and drawn.blur_first:
        frame = apply_blur(frame, drawn.blur)
    if drawn.noise is not None:
        frame = add_noise(frame, drawn.noise)
    if drawn.blur is not None and not drawn.blur_first:
        frame = apply_blur(frame, drawn.blur)
    return frame


def jitter_colour(frame: np.ndarray, colour: Colour) -> np.ndarray:
    """All of the colour jitter in one pass over the pixels; within one grey level, as OpenCV has 8-bit arithmetic."""
    cv2 = _cv2()
    mean_luma = LUMA @ cv2.mean(frame)[:3]
    return cv2.transform(frame, colour_matrix(colour, mean_luma))


def colour_matrix(colour: Colour, mean_luma: float) -> np.ndarray:
    """Affine (3, 4) map of an RGB pixel x, of a frame whose mean luma is m:

        x' = b (c S H x + (1 - c) m 1),    S = s I + (1 - s) 1 g^T

    with brightness b, contrast c, saturation s, luma weights g, and H the turn of the hue. Since H and S keep
    every pixel's luma g^T x, and grey pixels as they are, the order of the four does not matter.
    """
    saturation = colour.saturation * np.eye(3) + (1 - colour.saturation) * LUMA
    linear = colour.contrast * saturation @ _hue_matrix(colour.hue)
    offset = np.full((3, 1), (1 - colour.contrast) * mean_luma)
    return colour.brightness * np.hstack([linear, offset])


def _hue_matrix(turns: float) -> np.ndarray:
    """Rotation (3, 3) of colours about the grey axis, then moved along that axis back to the pixel's luma."""
    angle = 2 * math.pi * turns
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross  # Rodrigues
    return rotation + (LUMA - LUMA @ rotation)


def add_noise(frame: np.ndarray, noise: Noise) -> np.ndarray:
    """The frame with independent noise on every pixel, and on every channel where `per_channel`."""
    cv2 = _cv2()
    shape = frame.shape if noise.per_channel else frame.shape[:2]
    count = math.prod(shape)
    words = np.random.SFC64(noise.seed).random_raw(-(-count // 4))  # 64 bits each: four pixels
    levels = _noise_table(noise).take(words.astype("<u8", copy=False).view("<u2")[:count]).reshape(shape)
    if not noise.per_channel:
        levels = cv2.merge([levels] * 3)
    return cv2.add(frame, levels, dtype=cv2.CV_8U)


def _noise_table(noise: Noise) -> np.ndarray:
    """Quantiles of the noise in whole grey levels, int16 (65536,): a random place in it is a random level."""
    if noise.kind == "gaussian":
        return np.rint(noise.scale * _normal_quantiles()).astype(np.int16)
    if noise.kind == "laplace":
        return np.rint(noise.scale * _laplace_quantiles()).astype(np.int16)
    sizes = np.arange(math.ceil(noise.scale + 10 * math.sqrt(noise.scale)) + 2)
    log_factorials = np.cumsum(np.log(np.maximum(sizes, 1)))
    chances = np.exp(sizes * math.log(max(noise.scale, 1e-300)) - noise.scale - log_factorials)
    ends = np.rint(np.cumsum(chances) / chances.sum() * (_NUM_QUANTILES // 2)).astype(np.int64)
    positive = np.repeat(sizes, np.diff(ends, prepend=0))
    return np.concatenate([-positive, positive]).astype(np.int16)


@lru_cache(maxsize=1)
def _normal_quantiles() -> np.ndarray:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / _NUM_QUANTILES) for i in range(_NUM_QUANTILES)], dtype=np.float32)


@lru_cache(maxsize=1)
def _laplace_quantiles() -> np.ndarray:
    centred = (np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES - 0.5
    return (-np.sign(centred) * np.log1p(-2 * np.abs(centred))).astype(np.float32)


def apply_blur(frame: np.ndarray, blur: Blur) -> np.ndarray:
    """The blurred frame; beyond its edges it is mirrored."""
    cv2 = _cv2()
    if blur.size_px == 0:  # a Gaussian of no width
        return frame
    if blur.kind == "gaussian":
        return cv2.GaussianBlur(frame, (0, 0), blur.size_px)
    side = int(blur.size_px)
    if blur.kind == "average":
        return cv2.blur(frame, (side, side))
    if blur.kind == "median":
        return cv2.medianBlur(frame, side)
    return _filter_line(frame, motion_kernel(blur))


def motion_kernel(blur: Blur) -> np.ndarray:
    """Weights (side, side), float32 of sum 1, of a straight motion through the middle (as in imgaug)."""
    cv2 = _cv2()
    side = int(blur.size_px)
    kernel = np.zeros((side, side), dtype=np.float32)
    kernel[:, side // 2] = np.linspace(blur.lead, 1 - blur.lead, side)
    turn = cv2.getRotationMatrix2D((side // 2, side // 2), math.degrees(blur.angle_rad), 1)
    kernel = cv2.warpAffine(kernel, turn, (side, side))
    return kernel / kernel.sum()


def _filter_line(frame: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """`cv2.filter2D(frame, -1, kernel)` within one grey level, several times faster where most weights are 0.

    The kernel's tiles that are not empty are filtered alone, in int16 of fixed point, and summed up.
    """
    cv2 = _cv2()
    height, width = frame.shape[:2]
    reach = len(kernel) // 2
    padded = cv2.copyMakeBorder(frame, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
    total = np.zeros(frame.shape, dtype=np.int16)
    for top in range(0, len(kernel), _TILE_PX):
        for left in range(0, len(kernel), _TILE_PX):
            tile = kernel[top : top + _TILE_PX, left : left + _TILE_PX]
            if tile.any():
                seen = padded[top : top + height + len(tile) - 1, left : left + width + tile.shape[1] - 1]
                part = cv2.filter2D(seen, cv2.CV_16S, tile * _FIXED_POINT, anchor=(0, 0))
                total += part[:height, :width]
    return cv2.convertScaleAbs(total, alpha=1 / _FIXED_POINT)


@lru_cache(maxsize=1)
def _cv2() -> Any:
    """OpenCV, told to stay in the caller's thread: loaders have workers of their own."""
    try:
        import cv2
    except ImportError:
        raise ModuleNotFoundError("image augmentation needs OpenCV: pip install 'rdt-stack[augment]'") from None
    cv2.setNumThreads(0)
    cv2.ocl.setUseOpenCL(False)
    return cv2
