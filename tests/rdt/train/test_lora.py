"""Run: pytest tests/rdt/train/test_lora.py"""

import dataclasses

import pytest
import torch

from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.checkpoint import load_checkpoint, load_trainer_state, save_checkpoint
from rdt.train.freeze import freeze
from rdt.train.lora import LoraConfig, add_adapters, merged
from rdt.train.trainer import Trainer

pytest.importorskip("peft", reason="needs the extra `lora`")

LORA = LoraConfig(rank=4, alpha=8, dropout=0.1)


@pytest.fixture
def make_adapted(make_model):
    def make(seed: int = 0, config: LoraConfig = LORA, frozen: tuple[str, ...] = ()):
        model = make_model(seed)
        if frozen:
            freeze(model, frozen)
        add_adapters(model, config)
        return model

    return make


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_adapters_adaptors_and_the_final_layer_train(make_adapted):
    names = trained(make_adapted())
    assert {name.split(".")[-3] for name in names if "blocks" in name} == {"lora_A", "lora_B"}
    assert "policy.lang_adaptor.0.weight" in names and "policy.model.final_layer.ffn_final.fc2.weight" in names
    assert "policy.model.x_pos_embed" not in names
    assert sum("lora_A" in name for name in names) == 2 * 7  # blocks x linear layers of one
    assert any(name.startswith("condition.vision") for name in names)


def test_what_is_frozen_gets_no_adapter(make_adapted):
    names = trained(make_adapted(frozen=("policy.model.blocks.0.*", "policy.lang_adaptor.*", "condition.*")))
    assert not any("blocks.0" in name or "lang_adaptor" in name or "condition" in name for name in names)
    assert any("blocks.1" in name for name in names)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": ("policy.model.blokcs.*",)}, r"lora\.targets.*did you mean 'policy\.model\.blocks"),
        ({"also_train": ("policy.final.*",)}, r"lora\.also_train: unknown parameter"),
        ({"targets": ("policy.model.x_pos_embed",)}, "name no linear layer"),
    ],
)
def test_patterns_that_name_nothing_are_refused(make_adapted, config, message):
    with pytest.raises(ValueError, match=message):
        make_adapted(config=dataclasses.replace(LORA, **config))


def test_at_first_nothing_is_different(make_model, make_adapted, batches):
    plain, adapted = make_model().eval(), make_adapted().eval()
    generator = SampleGenerator(0)
    losses = [DiffusionImitation()(model, batches(model)(0), generator)[0] for model in (plain, adapted)]
    assert torch.equal(*losses)


def test_merged_equals_unmerged(make_model, make_adapted, batches, robot, train_config, tmp_path):
    model = make_adapted(frozen=("policy.img_adaptor.*",))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "final_layer" in name:
                parameter.normal_(std=0.3)
    batch, noise = batches(model)(0), torch.randn(8, 4, 128)
    plain = merged(model)
    assert set(plain.state_dict()) == set(make_model().state_dict())
    expected = model.eval().sample_actions(batch.observation, noise)
    torch.testing.assert_close(plain.eval().sample_actions(batch.observation, noise), expected, atol=1e-5, rtol=1e-5)
    save_checkpoint(tmp_path / "ck", plain, robot, train_config)
    opened = load_checkpoint(tmp_path / "ck").model
    torch.testing.assert_close(opened.sample_actions(batch.observation, noise), expected, atol=1e-5, rtol=1e-5)
    assert any("lora_A" in name for name in model.state_dict())  # the model itself is left as it was


def test_an_interrupted_run_with_dropout_equals_the_uninterrupted_one(
    make_adapted, batches, robot, train_config, tmp_path
):
    def save(trainer: Trainer) -> None:
        folder = trainer.out / f"step_{trainer.step}"
        save_checkpoint(folder, merged(trainer.deployed), robot, train_config, {}, trainer.state_dict())

    def make(seed: int, out: str) -> Trainer:
        model = make_adapted(seed)
        return Trainer(model, DiffusionImitation(), batches(model), train_config, tmp_path / out, save=save)

    whole = make(0, "whole")
    whole.run()
    torch.rand(7)  # torch's own generator is somewhere else by then
    second = make(5, "resumed")
    second.load_state_dict(load_trainer_state(tmp_path / "whole" / "step_6"))
    assert second.step == 6
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    last = [load_checkpoint(tmp_path / out / "step_12").model.state_dict() for out in ("whole", "resumed")]
    for name, value in last[0].items():
        assert torch.equal(value, last[1][name]), name
    assert any(bool(value.any()) for name, value in whole.model.state_dict().items() if "lora_B" in name)
