"""pytest tests/data_pipeline/transforms/test_augment.py"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.schema.types import CAMERA_ROLES
from data_pipeline.transforms import augment
from data_pipeline.transforms.augment import (
    Augmentation,
    AugmentConfig,
    Blur,
    Colour,
    Noise,
    apply,
    colour_matrix,
    draw_augmentation,
    draw_sample,
    motion_kernel,
)

ALWAYS = AugmentConfig(probability=1)
NOTHING = AugmentConfig(
    probability=1, brightness=0, contrast=0, saturation=0, hue=0, noise_scale=0, poisson_rate=0, blur=0
)
GREY = np.full((120, 160, 3), 128, dtype=np.uint8)


def picture(height: int = 24, width: int = 36, seed: int = 0) -> np.ndarray:
    """Random pixels that nobody may write to, like a store's."""
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame.flags.writeable = False
    return frame


def draws(config: AugmentConfig, count: int, seed: int = 0) -> list[Augmentation]:
    rng = np.random.default_rng(seed)
    return [draw_augmentation(rng, config) for _ in range(count)]


# Whole augmentations


@given(seed=st.integers(0, 10_000), height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_draw_fits_any_frame_and_repeats(seed, height, width):
    frame = picture(height, width, seed)
    before = frame.copy()
    drawn = draw_augmentation(np.random.default_rng(seed), ALWAYS)
    changed = apply(frame, drawn)
    assert changed.shape == frame.shape and changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, apply(frame, drawn))
    np.testing.assert_array_equal(frame, before)


def test_zero_strength_is_the_identity():
    frame = picture()
    for drawn in draws(NOTHING, 50):
        np.testing.assert_array_equal(apply(frame, drawn), frame)
    still = dataclasses.replace(NOTHING, blur=1, gaussian_sigma_px=(0, 0), average_px=(1, 1), median_px=(1, 1))
    for drawn in draws(dataclasses.replace(still, motion_px=(1, 1)), 50):
        np.testing.assert_array_equal(apply(frame, drawn), frame)


def test_an_empty_draw_returns_the_frame_itself():
    frame = picture()
    assert apply(frame, Augmentation()) is frame
    assert set(draws(AugmentConfig(probability=0), 100)) == {Augmentation()}


def test_steps_come_in_the_drawn_order():
    frame, colour, noise, blur = picture(), Colour(1.2), Noise("gaussian", 12, True, 5), Blur("average", 5)
    coloured = apply(frame, Augmentation(colour=colour))
    noisy, blurred = (apply(coloured, Augmentation(**{k: v})) for k, v in (("noise", noise), ("blur", blur)))
    noise_first = apply(frame, Augmentation(colour, noise, blur, blur_first=False))
    blur_first = apply(frame, Augmentation(colour, noise, blur, blur_first=True))
    np.testing.assert_array_equal(noise_first, apply(noisy, Augmentation(blur=blur)))
    np.testing.assert_array_equal(blur_first, apply(blurred, Augmentation(noise=noise)))
    assert blur_first.std() > noise_first.std()


# Draws


def test_draws_come_at_the_published_rates():
    drawn = draws(AugmentConfig(), 20_000)
    changed = [d for d in drawn if d != Augmentation()]
    assert len(changed) / len(drawn) == pytest.approx(0.5, abs=0.02)
    assert_shares([(d.colour is not None, d.noise is not None) for d in changed], [1 / 3] * 3)
    corrupted = [d for d in changed if d.noise is not None]
    assert_shares([d.noise.kind for d in corrupted], [1 / 3] * 3)
    assert_shares([d.noise.per_channel for d in corrupted], [1 / 2] * 2)
    assert_shares([d.blur_first for d in corrupted], [1 / 2] * 2)
    kinds = Counter(d.blur.kind if d.blur else "none" for d in corrupted)
    shares = {kind: count / len(corrupted) for kind, count in kinds.items()}
    assert shares == pytest.approx(
        {"none": 1 / 2, "motion": 1 / 4, "gaussian": 1 / 12, "average": 1 / 12, "median": 1 / 12}, abs=0.02
    )


def assert_shares(values: list, shares: list[float]) -> None:
    """`values` are of len(shares) kinds, equally likely."""
    counts = Counter(values)
    assert [count / len(values) for count in counts.values()] == pytest.approx(shares, abs=0.025)


def test_strengths_are_uniform_in_the_published_ranges():
    drawn = draws(ALWAYS, 30_000)
    colours = np.array([dataclasses.astuple(d.colour) for d in drawn if d.colour])
    assert_uniform(colours, [0.7, 0.6, 0.5, -0.03], [1.3, 1.4, 1.5, 0.03])
    assert np.abs(np.corrcoef(colours.T) - np.eye(4)).max() < 0.03
    for kind in ("gaussian", "laplace", "poisson"):
        assert_uniform([[d.noise.scale] for d in drawn if d.noise and d.noise.kind == kind], [0], [12.75])
    blurs = [d.blur for d in drawn if d.blur]
    assert_uniform([[b.size_px] for b in blurs if b.kind == "gaussian"], [0], [3])
    motions = [[b.angle_rad, b.lead] for b in blurs if b.kind == "motion"]
    assert_uniform(motions, [0, 0], [2 * math.pi, 1])
    sizes = {kind: Counter(b.size_px for b in blurs if b.kind == kind) for kind in ("average", "median", "motion")}
    assert sorted(sizes["average"]) == [2, 3, 4, 5, 6, 7]
    assert sorted(sizes["median"]) == [3, 5, 7, 9, 11]  # an even draw grows by one, so 3 is half as likely
    assert sizes["median"][3] / sizes["median"].total() == pytest.approx(1 / 9, abs=0.03)
    assert sorted(sizes["motion"]) == list(range(3, 38, 2))


def assert_uniform(values, low, high) -> None:
    unit = (np.array(values) - low) / (np.array(high) - low)
    assert unit.min() >= 0 and unit.max() <= 1
    error = 5 / len(unit) ** 0.5
    np.testing.assert_allclose(unit.mean(axis=0), 1 / 2, atol=0.29 * error)
    np.testing.assert_allclose(unit.std(axis=0), 12**-0.5, rtol=error)


def test_every_frame_of_a_sample_draws_for_itself():
    drawn = draw_sample(np.random.default_rng(0), ALWAYS, 2)
    assert {role: len(frames) for role, frames in drawn.items()} == dict.fromkeys(CAMERA_ROLES, 2)
    assert len({frame for frames in drawn.values() for frame in frames}) == 6


def test_what_a_frame_gets_does_not_shift_the_others():
    """A frame takes the same count of numbers whether it is left alone, coloured or corrupted."""
    often, seldom = (draw_sample(np.random.default_rng(3), AugmentConfig(probability=p), 50) for p in (1, 0.3))
    for role in CAMERA_ROLES:
        assert 0 < sum(d != Augmentation() for d in seldom[role]) < 50
        assert all(d in (Augmentation(), other) for d, other in zip(seldom[role], often[role], strict=True))
    one, sample = np.random.default_rng(7), np.random.default_rng(7)
    singles = [draw_augmentation(one, ALWAYS) for _ in range(6)]
    assert singles == [d for frames in draw_sample(sample, ALWAYS, 2).values() for d in frames]


def test_only_the_wanted_kinds_are_drawn():
    assert all(d.colour and not d.noise and not d.blur for d in draws(AugmentConfig(1, kinds=("colour",)), 200))
    assert all(d.noise and not d.colour for d in draws(AugmentConfig(1, kinds=("corrupt",)), 200))
    assert all(d.noise and d.colour for d in draws(AugmentConfig(1, kinds=("both",)), 200))


# Colour


def blend_reference(frame: np.ndarray, colour: Colour, order: str) -> np.ndarray:
    """The four operations one after the other as torchvision blends them, not clipped; hue about the grey axis."""
    x = frame.astype(np.float64)
    for operation in order:
        if operation == "b":
            x = colour.brightness * x
        elif operation == "c":
            x = colour.contrast * x + (1 - colour.contrast) * luma(x).mean()
        elif operation == "s":
            x = colour.saturation * x + (1 - colour.saturation) * luma(x)
        else:
            turned = turn_about_grey(x, colour.hue)
            x = turned + luma(x) - luma(turned)
    return x


def luma(x: np.ndarray) -> np.ndarray:
    return (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])[..., None]


def turn_about_grey(x: np.ndarray, turns: float) -> np.ndarray:
    """The plane across (1, 1, 1) as complex numbers: red at 0, green at a third of a turn, blue at two thirds."""
    thirds = np.exp(2j * np.pi * np.arange(3) / 3)
    chroma = x @ thirds * np.exp(2j * np.pi * turns)
    return x.mean(axis=-1, keepdims=True) + 2 / 3 * np.real(chroma[..., None] * thirds.conj())


@pytest.mark.parametrize("order", ["bcsh", "hscb", "cbhs", "shcb"])
@given(seed=st.integers(0, 1000))
def test_one_matrix_is_the_four_operations_in_any_order(order, seed):
    config = AugmentConfig(1, kinds=("colour",), hue=0.5)
    colour = draw_augmentation(np.random.default_rng(seed), config).colour
    frame = picture(seed=seed)
    expected = blend_reference(frame, colour, order)
    matrix = colour_matrix(colour, frame.mean(axis=(0, 1)) @ augment.LUMA)
    np.testing.assert_allclose(frame @ matrix[:, :3].T + matrix[:, 3], expected, atol=1e-9)
    pixels = apply(frame, Augmentation(colour=colour)).astype(np.float64)
    np.testing.assert_allclose(pixels, np.clip(expected, 0, 255), atol=1)


def test_brightness_scales():
    frame = picture() // 2
    for factor in (0.7, 1, 1.3):
        bright = apply(frame, Augmentation(colour=Colour(brightness=factor)))
        np.testing.assert_allclose(bright, frame * factor, atol=1)
    assert apply(picture(), Augmentation(colour=Colour(brightness=2))).max() == 255


def test_contrast_and_saturation_end_in_grey():
    frame = picture()
    flat = apply(frame, Augmentation(colour=Colour(contrast=0)))
    np.testing.assert_allclose(flat, np.full_like(flat, round(luma(frame).mean())), atol=1)
    grey = apply(frame, Augmentation(colour=Colour(saturation=0)))
    np.testing.assert_allclose(grey, luma(frame).repeat(3, axis=2), atol=1)


@pytest.mark.parametrize("turns", [-0.4, -0.03, 0.03, 1 / 3])
def test_hue_keeps_grey_and_luma(turns):
    grey = picture()[..., :1].repeat(3, axis=2)
    np.testing.assert_allclose(apply(grey, Augmentation(colour=Colour(hue=turns))), grey, atol=1)
    matrix = colour_matrix(Colour(hue=turns), 0)
    np.testing.assert_allclose(augment.LUMA @ matrix[:, :3], augment.LUMA, atol=1e-12)


def test_hue_turns_the_way_of_hsv():
    red, yellow = np.array([200, 50, 50]), np.array([200, 200, 50])
    for pixel in (red, yellow):
        frame = np.full((2, 2, 3), pixel, dtype=np.uint8)
        hue = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV_FULL)[0, 0, 0] / 256
        turned = apply(frame, Augmentation(colour=Colour(hue=0.03)))
        assert cv2.cvtColor(turned, cv2.COLOR_RGB2HSV_FULL)[0, 0, 0] / 256 - hue == pytest.approx(0.03, abs=0.015)


# Noise

DEVIATION = {"gaussian": lambda s: s, "laplace": lambda s: 2**0.5 * s, "poisson": lambda s: (s + s * s) ** 0.5}


@pytest.mark.parametrize("kind", DEVIATION)
@pytest.mark.parametrize("scale", [2, 6, 12.75])
def test_noise_has_mean_0_and_the_scale_of_its_kind(kind, scale):
    noise = apply(GREY, Augmentation(noise=Noise(kind, scale, True, 1))).astype(np.float64) - 128
    deviation = (DEVIATION[kind](scale) ** 2 + (0 if kind == "poisson" else 1 / 12)) ** 0.5  # rounded to levels
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert abs(noise.mean()) < 4 * deviation / noise.size**0.5


@pytest.mark.parametrize("kind", DEVIATION)
def test_noise_tables_are_the_distributions(kind):
    table = augment._noise_table(Noise(kind, 6.5, True, 0))
    assert table.shape == (65536,) and table.dtype == np.int16
    rng, draws = np.random.default_rng(0), 200_000
    sample = {
        "gaussian": lambda: rng.normal(0, 6.5, draws),
        "laplace": lambda: rng.laplace(0, 6.5, draws),
        "poisson": lambda: rng.poisson(6.5, draws) * rng.choice([-1, 1], draws),
    }[kind]()
    levels = np.arange(-40, 41)
    expected, got = (np.array([(np.rint(v) <= n).mean() for n in levels]) for v in (sample, table))
    assert np.abs(expected - got).max() < 0.005  # Kolmogorov's distance


def test_channels_share_their_noise_or_not():
    shared, own = (
        apply(GREY, Augmentation(noise=Noise("gaussian", 12, own, 2))).reshape(-1, 3).T for own in (False, True)
    )
    np.testing.assert_array_equal(shared[0], shared[1])
    np.testing.assert_array_equal(shared[0], shared[2])
    assert np.abs(np.corrcoef(own) - np.eye(3)).max() < 0.03


def test_pixels_and_seeds_are_independent():
    one, other = (apply(GREY, Augmentation(noise=Noise("gaussian", 12, True, seed))).ravel() for seed in (1, 2))
    for a, b in ((one, other), (one[1:], one[:-1]), (one[4:], one[:-4])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_noise_is_clipped_not_wrapped():
    noise = Noise("laplace", 12.75, True, 0)
    for level in (0, 255):
        noisy = apply(np.full_like(GREY, level), Augmentation(noise=noise))
        assert np.abs(noisy.astype(int) - level).max() < 150
        assert (noisy == level).mean() > 0.45  # the half that would leave the range


# Blur


@pytest.mark.parametrize(
    "blur", [Blur("gaussian", 2.5), Blur("average", 4), Blur("median", 7), Blur("motion", 21, 0.7, 0.2)]
)
def test_blur_keeps_a_flat_frame_and_calms_a_noisy_one(blur):
    np.testing.assert_allclose(apply(GREY, Augmentation(blur=blur)), GREY, atol=1)
    frame = picture(60, 80)
    blurred = apply(frame, Augmentation(blur=blur))
    assert blurred.std() < 0.4 * frame.std()
    assert blurred.mean() == pytest.approx(frame.mean(), abs=2)


@pytest.mark.parametrize("side", [3, 11, 13, 37])
@pytest.mark.parametrize("angle", [0, 0.5, math.pi / 4, 2, 4])
def test_motion_filters_like_one_whole_kernel(side, angle):
    blur = Blur("motion", side, angle, 0.9)
    frame = picture(50, 70)
    whole = cv2.filter2D(frame, -1, motion_kernel(blur)).astype(int)
    np.testing.assert_allclose(apply(frame, Augmentation(blur=blur)), whole, atol=1)


def test_motion_is_a_line_at_its_angle():
    down = motion_kernel(Blur("motion", 9, 0, 0.5))
    np.testing.assert_allclose(down[:, 4], 1 / 9, rtol=1e-5)
    across = motion_kernel(Blur("motion", 9, math.pi / 2, 0.5))
    np.testing.assert_allclose(across[4], 1 / 9, rtol=1e-3)
    ramp = motion_kernel(Blur("motion", 9, 0, 1.0))[:, 4]
    np.testing.assert_allclose(ramp, np.linspace(1, 0, 9) / 4.5, atol=1e-6)
    for angle in np.linspace(0, 6, 20):
        assert motion_kernel(Blur("motion", 15, angle, 0.1)).sum() == pytest.approx(1, abs=1e-5)


# House rules


def test_the_published_numbers_are_the_defaults():
    assert dataclasses.asdict(AugmentConfig()) == {
        "probability": 0.5,
        "kinds": ("corrupt", "colour", "both"),
        "brightness": 0.3,
        "contrast": 0.4,
        "saturation": 0.5,
        "hue": 0.03,
        "noise_scale": 12.75,
        "poisson_rate": 12.75,
        "per_channel": 0.5,
        "blur": 0.5,
        "motion": 0.5,
        "gaussian_sigma_px": (0.0, 3.0),
        "average_px": (2, 7),
        "median_px": (3, 11),
        "motion_px": (3, 36),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probability": 1.5}, r"probability must be in \[0, 1\], got 1.5"),
        ({"brightness": -0.1}, "brightness must be in"),
        ({"hue": 0.6}, r"hue must be in \[0, 0.5\]"),
        ({"noise_scale": math.nan}, "noise_scale must be in"),
        ({"kinds": ()}, "kinds must be some of"),
        ({"kinds": ("color",)}, "'colour', 'both'.*got .'color'"),
        ({"median_px": (0, 3)}, r"median_px must be two ascending numbers in \[1, 255\]"),
        ({"motion_px": (9, 3)}, r"motion_px must be two ascending numbers .*got \(9, 3\)"),
        ({"gaussian_sigma_px": (0, math.inf)}, "gaussian_sigma_px must be"),
    ],
)
def test_a_wrong_config_is_refused_at_birth(wrong, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**wrong)


def test_opencv_stays_in_one_thread():
    apply(GREY, Augmentation(colour=Colour(1.1)))
    assert cv2.getNumThreads() == 1


def test_without_opencv_the_extra_is_named(monkeypatch):
    augment._cv2.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[augment\]'"):
        apply(GREY, Augmentation(colour=Colour(1.1)))
