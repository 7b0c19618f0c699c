"""pytest tests/data_pipeline/transforms/test_images.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipeline.transforms.images import pad_square, random_shift, resize


@given(seed=st.integers(0, 500), pixels=st.integers(0, 9))
def test_a_shift_is_a_crop_of_the_edge_padded_picture(seed, pixels):
    frames = np.random.default_rng(seed).integers(0, 256, (2, 7, 5, 3), dtype=np.uint8)
    padded = np.pad(frames, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    crops = [padded[:, y : y + 7, x : x + 5] for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)]
    shifted = random_shift(frames, pixels, np.random.default_rng(seed))
    assert any(np.array_equal(shifted, crop) for crop in crops)


def test_all_shifts_occur():
    frame = np.arange(25, dtype=np.uint8).reshape(5, 5, 1).repeat(3, axis=2)
    rng = np.random.default_rng(0)
    assert len({int(random_shift(frame, 2, rng)[2, 2, 0]) for _ in range(500)}) == 25
    np.testing.assert_array_equal(random_shift(frame, 0, rng), frame)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(3, 8, 2, 0), (8, 3, 0, 2), (4, 4, 0, 0)])
def test_padding_centres_the_picture(height, width, top, left):
    frames = np.random.default_rng(0).integers(0, 100, (2, height, width, 3), dtype=np.uint8)
    square = pad_square(frames)
    side = max(height, width)
    assert square.shape == (2, side, side, 3) and square.dtype == np.uint8
    np.testing.assert_array_equal(square[:, top : top + height, left : left + width], frames)
    assert (square == 127).sum() == 2 * 3 * (side * side - height * width)


def test_resizing_is_pillows(pictures):
    frames = pictures(3, height=30, width=40)
    resized = resize(frames, 12, 20)
    assert resized.shape == (3, 12, 20, 3)
    for frame, small in zip(frames, resized, strict=True):
        expected = np.asarray(Image.fromarray(frame).resize((20, 12), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(small, expected)
    assert resize(frames, 30, 40) is frames
    assert resize(frames[0], 5, 6).shape == (5, 6, 3)
