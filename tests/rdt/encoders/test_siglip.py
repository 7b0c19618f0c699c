"""Run: pytest tests/rdt/encoders/test_siglip.py"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdt.encoders.condition import ConditionConfig
from rdt.encoders.siglip import SiglipVision
from tests.published import SIGLIP_TOKENS, make_siglip


def load(folder) -> SiglipVision:
    config = ConditionConfig(vision="siglip", vision_path=str(folder))
    return SiglipVision.from_config(config, token_dim=32, tokens_per_image=SIGLIP_TOKENS)


def test_features_are_the_last_hidden_state_of_transformers(siglip):
    from transformers import SiglipVisionModel

    pixels = torch.rand(3, 3, 28, 28) * 2 - 1
    expected = SiglipVisionModel.from_pretrained(siglip).eval()(pixel_values=pixels).last_hidden_state
    features = load(siglip)(pixels)
    assert features.shape == (3, SIGLIP_TOKENS, 32)
    assert torch.equal(features, expected)
    assert not features.requires_grad


def test_the_whole_siglip_gives_its_vision_tower(tmp_path):
    from transformers import SiglipModel

    folder = make_siglip(tmp_path / "whole", whole=True)
    pixels = torch.rand(2, 3, 28, 28) * 2 - 1
    expected = SiglipModel.from_pretrained(folder).eval().vision_model(pixel_values=pixels).last_hidden_state
    encoder = load(folder)
    assert torch.equal(encoder(pixels), expected)
    assert (encoder.image_size, encoder.token_dim, encoder.tokens_per_image) == (28, 32, SIGLIP_TOKENS)


def test_the_pooling_head_is_not_built(siglip):
    network = load(siglip)._tower.on(torch.device("cpu"))
    assert not [name for name, _ in network.named_parameters() if "head" in name]


def test_the_published_sizes_are_those_of_the_network(tmp_path):
    """Only `config.json` is read to know them: as released, what equals the library's defaults is left out."""
    sizes = {"hidden_size": 1152, "image_size": 384, "patch_size": 14}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": sizes}))
    (tmp_path / "model.safetensors").touch()
    encoder = load(tmp_path)
    assert (encoder.image_size, encoder.tokens_per_image, encoder.token_dim) == (384, 729, 1152)


def test_a_lost_weight_is_named(siglip, tmp_path):
    shutil.copytree(siglip, tmp_path / "torn")
    file = tmp_path / "torn" / "model.safetensors"
    weights = load_file(file)
    weights = {name: weight.clone() for name, weight in weights.items() if "post_layernorm.weight" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .*post_layernorm\.weight"):
        load(tmp_path / "torn")(torch.zeros(1, 3, 28, 28))


def test_its_tokens_lie_one_after_the_other(siglip):
    encoder, inside = load(siglip), []
    network = encoder._tower.on(torch.device("cpu"))
    (first,) = (module for name, module in network.named_modules() if name.endswith("layers.0"))
    first.register_forward_pre_hook(lambda module, args: inside.append(args[0].is_contiguous()))
    encoder(torch.zeros(2, 3, 28, 28))
    assert inside == [True]


@pytest.mark.gpu
def test_on_a_gpu_it_runs_in_bfloat16(siglip):
    pixels = torch.rand(2, 3, 28, 28) * 2 - 1
    encoder = load(siglip)
    expected = encoder(pixels)
    features = encoder(pixels.cuda())
    assert features.dtype == torch.bfloat16
    assert torch.allclose(features.cpu().float(), expected, atol=0.05)
    assert torch.equal(encoder(pixels).float(), encoder(pixels))  # and back
