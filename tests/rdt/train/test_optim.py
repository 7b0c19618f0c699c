"""Run: pytest tests/rdt/train/test_optim.py"""

import contextlib
import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn

from rdt.objective import DiffusionImitation
from rdt.train.freeze import freeze
from rdt.train.optim import OptimConfig, make_optimizer, make_schedule
from rdt.train.trainer import Trainer


def rates(config: OptimConfig, num_steps: int) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, num_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_published_schedule_is_constant():
    assert set(rates(OptimConfig(), 5)) == {1e-4}


def test_warm_up_rises_and_cosine_falls_to_almost_nothing():
    found = rates(OptimConfig(lr=1.0, schedule="cosine", warmup_steps=10), 100)
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] < 1e-3


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"optim\.schedule must be one of"):
        OptimConfig(schedule="step")


def test_linear_falls_evenly_to_its_floor():
    found = rates(OptimConfig(lr=1.0, schedule="linear", final_lr=0.5), 10)
    assert found == pytest.approx([1 - 0.05 * step for step in range(10)])


def test_cosine_keeps_above_its_floor():
    found = rates(OptimConfig(lr=1.0, schedule="cosine", final_lr=0.1), 100)
    assert found[50] == pytest.approx(0.55)
    assert 0.1 < found[-1] < 0.101


def test_wsd_is_constant_until_its_decay():
    found = rates(OptimConfig(lr=1.0, schedule="wsd", warmup_steps=2, wsd_decay=0.4), 10)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_weight_decay_is_on_all_parameters_as_published_or_on_matrices():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2d(4, 4, 1), nn.Embedding(5, 4))
    assert [len(group["params"]) for group in make_optimizer(model, OptimConfig()).param_groups] == [7]
    groups = make_optimizer(model, OptimConfig(decay="matrices", weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 2), (0.0, 5)]
    assert groups[0]["params"] == [model[0].weight, model[2].weight]


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
def test_every_optimizer_learns_and_goes_on_where_it_was(name, tmp_path):
    if name == "adamw8bit":
        pytest.importorskip("torchao", reason="needs the extra `gpu`")
    config = OptimConfig(name=name, lr=1e-2, warmup_steps=3)
    torch.manual_seed(0)
    inputs, model = torch.randn(8, 64), nn.Linear(64, 128)  # 8192 weights: enough for eight bits

    def run(model: nn.Module, optimizer, schedule, num_steps: int) -> list[float]:
        losses = []
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss = (model(inputs) - 1).square().mean()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return losses

    def parts(model: nn.Module):
        optimizer = make_optimizer(model, config)
        return optimizer, make_schedule(optimizer, config, 20)

    # eight bits compile their step, for half a minute
    with torch.compiler.set_stance("force_eager") if name == "adamw8bit" else contextlib.nullcontext():
        optimizer, schedule = parts(model)
        losses = run(model, optimizer, schedule, 10)
        assert losses[-1] < 0.85 * losses[0]
        again = copy.deepcopy(model)
        torch.save([part.state_dict() for part in (optimizer, schedule)], tmp_path / "state.pt")
        resumed = parts(again)
        for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
            part.load_state_dict(state)
        assert run(model, optimizer, schedule, 5) == run(again, *resumed, 5)


def test_eight_bits_without_their_library_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ModuleNotFoundError, match=r"rdt-stack\[gpu\]"):
        make_optimizer(nn.Linear(2, 2), OptimConfig(name="adamw8bit"))


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert sum(len(group["params"]) for group in make_optimizer(model, OptimConfig()).param_groups) == 1


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
def test_a_run_with_any_optimizer_resumes_bit_for_bit(name, make_model, batches, train_config, tmp_path):
    if name == "adamw8bit":
        pytest.importorskip("torchao", reason="needs the extra `gpu`")
    optim = OptimConfig(name=name, lr=1e-3, decay="matrices", schedule="wsd", warmup_steps=2)
    config = dataclasses.replace(train_config, optim=optim, steps=4, checkpoint_every=2)

    def make(out: str, save=None) -> Trainer:
        model = make_model()
        freeze(model, ["policy.state_adaptor.*"])
        return Trainer(model, DiffusionImitation(), batches(model), config, tmp_path / out, save=save)

    def save(trainer: Trainer) -> None:
        torch.save(trainer.state_dict(), tmp_path / f"{trainer.step}.pt")

    with torch.compiler.set_stance("force_eager") if name == "adamw8bit" else contextlib.nullcontext():
        whole, resumed = make("whole", save), make("resumed")
        whole.run()
        resumed.load_state_dict(torch.load(tmp_path / "2.pt", weights_only=True))
        resumed.run()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
