"""pytest tests/rdt/model/test_inputs.py"""

import re

import pytest
import torch

TIMESTEPS = torch.tensor([0, 500, 999])


@pytest.fixture
def given(config, make_inputs, make_noise):
    """Everything that `compute_loss` takes, batch 3."""
    return make_inputs(config) | {
        "action_gt": make_noise(config),
        "noise": make_noise(config),
        "timesteps": TIMESTEPS,
    }


SHAPES = [
    (
        "lang_tokens",
        (2, 7, 64),
        "must have the shape (3, any, 64), got (2, 7, 64): one row a sample, unless lang_index",
    ),
    ("lang_tokens", (3, 7, 63), "must have the shape (3, any, 64), got (3, 7, 63)"),
    ("lang_tokens", (3, 64), "must have the shape (3, any, 64), got (3, 64)"),
    ("lang_tokens", (3, 17, 64), "holds 17 tokens an instruction, expected 1 to 16 (max_lang_cond_len)"),
    ("lang_tokens", (3, 0, 64), "holds 0 tokens an instruction, expected 1 to 16 (max_lang_cond_len)"),
    ("lang_attn_mask", (3, 6), "must have the shape (3, 7), got (3, 6): True where a token counts"),
    ("lang_attn_mask", (3, 1, 7), "must have the shape (3, 7), got (3, 1, 7)"),
    ("img_tokens", (3, 5, 64), "must have the shape (3, 4, 64), got (3, 5, 64): (frame, camera, patch)"),
    ("img_tokens", (3, 4, 63), "must have the shape (3, 4, 64), got (3, 4, 63)"),
    ("img_tokens", (2, 4, 64), "must have the shape (3, 4, 64), got (2, 4, 64)"),
    ("state_tokens", (3, 128), "must have the shape (any, 1, 128), got (3, 128)"),
    ("state_tokens", (3, 2, 128), "must have the shape (any, 1, 128), got (3, 2, 128)"),
    ("state_tokens", (3, 1, 14), "must have the shape (any, 1, 128), got (3, 1, 14)"),
    ("action_mask", (3, 128), "must have the shape (3, 1, 128), got (3, 128): 1 where the robot has the slot"),
    ("ctrl_freqs", (3, 1), "must have the shape (3), got (3, 1): one control frequency in Hz a sample"),
    ("ctrl_freqs", (), "must have the shape (3), got ()"),
    ("action_gt", (3, 7, 128), "must have the shape (3, 6, 128), got (3, 7, 128): (batch, pred_horizon, action_dim)"),
    ("noise", (1, 6, 128), "must have the shape (3, 6, 128), got (1, 6, 128)"),
    ("timesteps", (1,), "must have the shape (3), got (1,): one diffusion timestep a sample"),
]


@pytest.mark.parametrize(("name", "shape", "message"), SHAPES)
def test_wrong_shapes(config, make_policy, given, name, shape, message):
    wrong = torch.zeros(shape, dtype=given[name].dtype)
    with pytest.raises(ValueError, match=re.escape(f"{name} {message}")):
        make_policy(config).compute_loss(**{**given, name: wrong})


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("lang_tokens", torch.int64, "floating-point"),
        ("lang_attn_mask", torch.float32, "bool"),
        ("lang_attn_mask", torch.int64, "bool"),
        ("img_tokens", torch.uint8, "floating-point"),
        ("state_tokens", torch.int32, "floating-point"),
        ("action_mask", torch.complex64, "real"),
        ("ctrl_freqs", torch.complex64, "real"),
        ("action_gt", torch.int64, "floating-point"),
        ("noise", torch.bool, "floating-point"),
        ("timesteps", torch.float32, "integer"),
    ],
)
def test_wrong_types(config, make_policy, given, name, dtype, kind):
    wrong = {**given, name: given[name].to(dtype)}
    with pytest.raises(ValueError, match=f"{name} must be {kind}, got {str(dtype).removeprefix('torch.')}: convert"):
        make_policy(config).compute_loss(**wrong)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_slot_masks_and_frequencies_of_any_real_type(config, make_policy, given, dtype):
    policy = make_policy(config)
    loss = policy.compute_loss(**given)
    given["action_mask"] = given["action_mask"].to(dtype)
    assert torch.equal(policy.compute_loss(**given), loss)


@pytest.mark.parametrize("name", ["lang_tokens", "lang_attn_mask", "img_tokens", "action_mask", "noise", "timesteps"])
def test_another_device(config, make_policy, given, name):
    wrong = {**given, name: given[name].to("meta")}
    with pytest.raises(ValueError, match=rf"{name} is on meta, the policy on cpu: move it with \.to\('cpu'\)"):
        make_policy(config).compute_loss(**wrong)


def test_not_a_tensor(config, make_policy, given):
    with pytest.raises(ValueError, match="ctrl_freqs must be a torch tensor, got float"):
        make_policy(config).compute_loss(**{**given, "ctrl_freqs": 25.0})


@pytest.mark.parametrize("index", [torch.zeros(2, dtype=torch.int64), torch.zeros(3)])
def test_wrong_lang_index(config, make_policy, given, index):
    with pytest.raises(ValueError, match="lang_index must"):
        make_policy(config).compute_loss(**given, lang_index=index)


def test_every_door_is_guarded(config, make_policy, make_inputs, make_noise):
    policy, inputs = make_policy(config), make_inputs(config)
    wrong = {**inputs, "img_tokens": inputs["img_tokens"][:, :3]}
    for call in (
        lambda: policy.encode_condition(**wrong),
        lambda: policy.predict_action(**wrong),
        lambda: policy.compute_loss(**wrong, action_gt=make_noise(config)),
        lambda: policy(make_noise(config), TIMESTEPS, **wrong),
    ):
        with pytest.raises(ValueError, match="img_tokens must have the shape"):
            call()
    with pytest.raises(ValueError, match="noise must have the shape"):
        policy.predict_action(**inputs, noise=make_noise(config)[:2])
