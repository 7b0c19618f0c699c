"""pytest tests/rdt/model/test_transformer.py"""

import dataclasses

import torch

from rdt.model.policy import RDTPolicy


def test_even_blocks_read_language_and_odd_blocks_images(config, make_policy, make_inputs):
    policy, inputs = make_policy(config), make_inputs(config)
    model = policy.model
    projected = policy.encode_condition(**inputs)
    plain = policy.encode_condition(**inputs, key_values=False)
    lang = policy.lang_adaptor(inputs["lang_tokens"])
    placed = (
        lang + model.lang_cond_pos_embed[:, : lang.shape[1]],
        (policy.img_adaptor(inputs["img_tokens"]) + model.img_cond_pos_embed),
    )
    for i, block in enumerate(model.blocks):
        assert torch.equal(plain.per_block[i], placed[i % 2])
        key, value = block.cross_attn.key_value(placed[i % 2])
        assert torch.equal(projected.per_block[i].key, key)
        assert torch.equal(projected.per_block[i].value, value)


def test_one_timestep_serves_the_batch(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    shared = policy(noise, torch.tensor([400]), **inputs)
    each = policy(noise, torch.tensor([400, 400, 400]), **inputs)
    torch.testing.assert_close(shared, each)


def test_state_dict_has_the_released_names(config):
    """Spec rdt.md section 3.8, for a network of one block."""
    keys = set(RDTPolicy(dataclasses.replace(config, depth=1)).state_dict())
    linear = [
        *(f"model.{e}_embedder.mlp.{i}" for e in ("t", "freq") for i in (0, 2)),
        *(f"model.blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "ffn.fc1", "ffn.fc2")),
        *(f"model.blocks.0.cross_attn.{name}" for name in ("q", "kv", "proj")),
        *(f"model.final_layer.ffn_final.{name}" for name in ("fc1", "fc2")),
        *(f"{a}_adaptor.{i}" for a, count in (("lang", 2), ("img", 2), ("state", 3)) for i in range(0, 2 * count, 2)),
    ]
    norms = [
        *(f"model.blocks.0.norm{i}" for i in (1, 2, 3)),
        *(f"model.blocks.0.{a}.{name}_norm" for a in ("attn", "cross_attn") for name in "qk"),
        "model.final_layer.norm_final",
    ]
    positions = {"model.x_pos_embed", "model.lang_cond_pos_embed", "model.img_cond_pos_embed"}
    weights_and_biases = {f"{name}.{kind}" for name in linear for kind in ("weight", "bias")}
    assert keys == positions | weights_and_biases | {f"{name}.weight" for name in norms}
