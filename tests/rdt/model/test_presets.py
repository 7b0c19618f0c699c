"""pytest tests/rdt/model/test_presets.py"""

import dataclasses
import json

import pytest
import torch

from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS, RDTConfig


@pytest.mark.parametrize(
    ("name", "num_parameters", "num_tensors"),
    [("rdt_1b", 1_228_319_872, 618), ("rdt_170m", 166_229_888, 324)],  # spec rdt.md section 2
)
def test_published_sizes(name, num_parameters, num_tensors):
    with torch.device("meta"):
        policy = RDTPolicy(PRESETS[name])
    assert sum(p.numel() for p in policy.parameters()) == num_parameters
    assert len(policy.state_dict()) == num_tensors
    assert all(tensor.is_meta for tensor in policy.state_dict().values())


def test_tiny_is_about_a_million():
    assert 0.8e6 < sum(p.numel() for p in RDTPolicy(PRESETS["rdt_tiny"]).parameters()) < 1.1e6


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="unknown preset 'rdt-1B'; the nearest is 'rdt_1b'"):
        PRESETS["rdt-1B"]


@pytest.mark.parametrize("name", list(PRESETS))
def test_json_round_trip(name):
    assert RDTConfig.from_json(json.loads(json.dumps(PRESETS[name].to_json()))) == PRESETS[name]


def test_written_form_is_the_published_one():
    written = json.loads(json.dumps(PRESETS["rdt_1b"].to_json()))
    assert "config" not in written
    assert written["rdt"] == {
        "hidden_size": 2048,
        "depth": 28,
        "num_heads": 32,
        "cond_pos_embed_type": "multimodal",
    }
    assert written["img_pos_embed_config"] == [["image", [2, 3, -729]]]
    assert written["lang_pos_embed_config"] == [["lang", -1024]]
    assert written["noise_scheduler"]["prediction_type"] == "sample"


def test_nested_form_is_read():
    config = dataclasses.replace(PRESETS["rdt_tiny"], prediction_type="epsilon", num_inference_timesteps=7)
    flat = config.to_json()
    members = {
        name: flat.pop(name) for name in ("rdt", "noise_scheduler", "lang_adaptor", "img_adaptor", "state_adaptor")
    }
    assert RDTConfig.from_json({**flat, "config": members}) == config


def test_missing_keys_take_defaults_and_unknown_ones_are_passed_over():
    config = RDTConfig.from_json(
        {"rdt": {"hidden_size": 2048, "depth": 28, "num_heads": 32}, "dtype": "bf16", "ema": {}}
    )
    assert config == dataclasses.replace(PRESETS["rdt_1b"], lang_pos_embed_config=None, img_pos_embed_config=None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rdt": {"hidden_size": 64}}, r"rdt.depth.*rdt.num_heads"),
        ({"rdt": {"hidden_size": 64, "depth": 2, "num_heads": 5}}, "not a multiple of num_heads"),
        ({"noise_scheduler": {"beta_schedule": "linear"}}, "squaredcos_cap_v2"),
        ({"noise_scheduler": {"prediction_type": "v_prediction"}}, r"use one of \['sample', 'epsilon'\]"),
        ({"norm": "layer"}, r"use one of \['unbiased', 'mean_square'\]"),
        ({"action_dim": 64}, "one adaptor reads both"),
    ],
)
def test_bad_values_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        RDTConfig.from_json({"rdt": {"hidden_size": 64, "depth": 2, "num_heads": 4}, **data})
