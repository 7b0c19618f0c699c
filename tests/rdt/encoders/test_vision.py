"""Run: pytest tests/rdt/encoders/test_vision.py"""

import pytest
import torch

from rdt.encoders.vision import SpatialSoftmax, spatial_softmax


def test_a_single_bright_pixel_is_found_at_its_coordinates():
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 0, 8] = 100.0  # top right
    maps[0, 1, 2, 4] = 100.0  # middle
    x0, x1, y0, y1 = spatial_softmax(maps, torch.tensor(1.0))[0].tolist()
    assert (x0, y0) == pytest.approx((1.0, -1.0))
    assert (x1, y1) == pytest.approx((0.0, 0.0))


def test_a_flat_map_has_its_keypoint_in_the_middle():
    assert torch.allclose(spatial_softmax(torch.ones(1, 3, 4, 4), torch.tensor(10.0)), torch.zeros(1, 6), atol=1e-6)


def test_shifting_the_maps_shifts_the_keypoints():
    maps = torch.full((1, 1, 8, 8), -100.0)
    maps[0, 0, 3, 2] = 100.0
    x, y = spatial_softmax(maps, torch.tensor(1.0))[0]
    moved_x, moved_y = spatial_softmax(maps.roll((1, 2), dims=(2, 3)), torch.tensor(1.0))[0]
    assert moved_x - x == pytest.approx(2 * 2 / 7)
    assert moved_y - y == pytest.approx(1 * 2 / 7)


def test_tokens_have_the_promised_shape_and_every_weight_learns():
    encoder = SpatialSoftmax(token_dim=6, tokens_per_image=3, image_size=32)
    tokens = encoder(torch.randn(2, 3, 32, 32))
    assert tokens.shape == (2, 3, 6)
    tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
