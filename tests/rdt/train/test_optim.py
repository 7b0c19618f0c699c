"""Run: pytest tests/rdt/train/test_optim.py"""

import pytest
from torch import nn

from rdt.train.optim import OptimConfig, make_optimizer, make_schedule


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
    with pytest.raises(ValueError, match="constant or cosine"):
        OptimConfig(schedule="step")


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert sum(len(group["params"]) for group in make_optimizer(model, OptimConfig()).param_groups) == 1
