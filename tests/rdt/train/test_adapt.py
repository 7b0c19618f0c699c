"""Run: pytest tests/rdt/train/test_adapt.py"""

import dataclasses

import pytest
import torch
from torch import nn

from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.adapt import adapt
from rdt.train.lora import LoraConfig
from rdt.train.trainer import Trainer


@pytest.mark.parametrize("dropout", [None, 0.2])
def test_checkpointed_training_is_the_same_bit_for_bit(make_model, batches, train_config, tmp_path, dropout):
    states = []
    for checkpointing in ("none", "blocks"):
        model = make_model()
        config = dataclasses.replace(train_config, activation_checkpointing=checkpointing, steps=4)
        if dropout is not None:
            pytest.importorskip("peft", reason="needs the extra `lora`")
            config = dataclasses.replace(config, lora=LoraConfig(rank=2, dropout=dropout))
        adapt(model, config, report=lambda _: None)
        Trainer(model, DiffusionImitation(), batches(model), config, tmp_path / checkpointing).run()
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_compiled_blocks_train_alike(make_model, batches, train_config, monkeypatch):
    # traced as for the real backend, which would write C++ for half a minute
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_module(module, backend="aot_eager"))
    losses, gradients = [], []
    for compiled in (False, True):
        model = make_model()
        with torch.no_grad():
            model.policy.model.final_layer.ffn_final.fc2.weight.normal_()  # 0 at first: no block would learn
        config = dataclasses.replace(train_config, compile=compiled, activation_checkpointing="blocks")
        adapt(model, config, report=lambda _: None)
        loss, _ = DiffusionImitation()(model, batches(model)(0), SampleGenerator(0))
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any(bool(gradient.any()) for name, gradient in gradients[0].items() if "blocks" in name)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)
