"""Run: pytest tests/rdt/encoders/test_pixels.py"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from data_pipeline.schema.types import CAMERA_KEYS
from data_pipeline.transforms import images as reference
from rdt.encoders.pixels import brighten_dark, normalise, to_square
from tests.data_pipeline.test_data_golden import GOLDEN

TWO_LEVELS = 2  # 0.016 of the encoder's range of 2
SHAPES = [(48, 64), (64, 48), (30, 41), (41, 30), (33, 33), (120, 160), (17, 90)]
SIZES = [42, 84, 224]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def edges(height: int, width: int) -> np.ndarray:
    """Black and white stripes: the largest overshoots."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * ((x // 3 + y // 5) % 2), 255 * (x > width // 2)]).astype(np.uint8)[..., None].repeat(3, -1)


def photographs() -> np.ndarray:
    with np.load(GOLDEN / "expected.npz") as file:
        step = file["step_ids"][2]
        return file[f"{step}.{CAMERA_KEYS['external']}"]


def assert_as_pillow(frames: np.ndarray, size: int, device: str = "cpu") -> None:
    ours = to_square(torch.from_numpy(frames).to(device), size).cpu().numpy().astype(int)
    expected = reference.resize(reference.pad_square(frames), size, size)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= TWO_LEVELS


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("draw", [noise, edges])
def test_squares_are_pillows_within_two_levels(draw, shape, size):
    assert_as_pillow(draw(*shape), size)


@pytest.mark.parametrize("size", SIZES)
def test_photographs_too(size):
    assert_as_pillow(photographs(), size)


@pytest.mark.gpu
def test_and_on_a_gpu():
    for size in SIZES:
        for shape in SHAPES:
            assert_as_pillow(noise(*shape), size, "cuda")
            assert_as_pillow(edges(*shape), size, "cuda")
        assert_as_pillow(photographs(), size, "cuda")


def test_a_square_of_the_right_size_passes_unchanged():
    frames = torch.from_numpy(noise(24, 24))
    assert torch.equal(to_square(frames, 24), frames)


@pytest.mark.parametrize("level", [0, 30, 38, 39, 120])
def test_dark_pictures_are_brightened_as_pillow_does(level):
    frame = np.random.default_rng(0).integers(0, max(2 * level, 1), (20, 30, 3), dtype=np.uint8)
    dark = frame.mean() <= 0.15 * 255
    expected = np.asarray(ImageEnhance.Brightness(Image.fromarray(frame)).enhance(1.75)) if dark else frame
    np.testing.assert_array_equal(reference.brighten_dark(frame), expected)
    np.testing.assert_array_equal(brighten_dark(torch.from_numpy(frame)[None])[0].numpy(), expected)


def test_each_picture_is_dark_for_itself():
    frames = torch.stack([torch.full((4, 4, 3), 20, dtype=torch.uint8), torch.full((4, 4, 3), 200, dtype=torch.uint8)])
    small = to_square(frames, 2, brighten=True)
    assert (small[0] == 35).all()
    assert (small[1] == 200).all()


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_normalised_by_channel(mean, std):
    frames = torch.from_numpy(noise(6, 5))
    expected = (frames / 255 - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(normalise(frames, mean, std), expected.permute(0, 3, 1, 2), atol=1e-6)
