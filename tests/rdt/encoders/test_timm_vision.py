"""Run: pytest tests/rdt/encoders/test_timm_vision.py"""

import pytest
import timm
import torch
from safetensors.torch import save_file

from rdt.encoders.condition import ConditionConfig
from rdt.encoders.timm_vision import TimmVision

KINDS = {
    "test_vit": (100, 64),  # a class token is left out
    "test_resnet": (25, 96),  # a map with channels first
    "swin_tiny_patch4_window7_224": (49, 768),  # a map with channels last
}


def make(backbone: str, folder) -> torch.nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(backbone, pretrained=False)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    return network.eval()


def load(backbone: str, folder=None) -> TimmVision:
    config = ConditionConfig(vision=f"timm:{backbone}", vision_path=folder and str(folder))
    return TimmVision.from_config(config, token_dim=0, tokens_per_image=0)


@pytest.mark.parametrize("backbone", KINDS)
def test_tokens_are_those_of_forward_features(backbone, tmp_path):
    network = make(backbone, tmp_path / "weights")
    encoder = load(backbone, tmp_path / "weights")
    assert (encoder.tokens_per_image, encoder.token_dim) == KINDS[backbone]
    pixels = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        features = network.forward_features(pixels)
    expected = {
        "test_vit": lambda: features[:, 1:],
        "test_resnet": lambda: features.reshape(2, 96, 25).transpose(1, 2),
        "swin_tiny_patch4_window7_224": lambda: features.reshape(2, 49, 768),
    }[backbone]()
    assert torch.allclose(encoder(pixels), expected, atol=1e-5)


def test_the_pictures_are_normalised_as_the_backbone_was_trained(tmp_path):
    make("resnet10t", tmp_path / "weights")
    encoder = load("resnet10t", tmp_path / "weights")
    assert encoder.mean == (0.485, 0.456, 0.406)
    assert encoder.std == (0.229, 0.224, 0.225)
    assert encoder.image_size == 176


def test_a_misspelt_backbone_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="vit_tiny_patch16_224"):
        load("vit_tiny_patch16_22")


def test_weights_of_another_backbone_are_refused(tmp_path):
    make("test_resnet", tmp_path / "weights")
    with pytest.raises(ValueError, match="does not hold the weights of timm's 'test_vit'"):
        load("test_vit", tmp_path / "weights")(torch.zeros(1, 3, 160, 160))
