"""Run: pytest tests/rdt/train/test_ema.py"""

import pytest
import torch
from torch import nn

from rdt.train.ema import averaged, ema_decay


def test_the_decay_grows_to_its_limit():
    assert ema_decay(0, 0.999) == 0.1
    assert ema_decay(90, 0.999) == pytest.approx(0.91)
    assert ema_decay(10**6, 0.999) == 0.999


def test_the_average_follows_the_recursion():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = averaged(model, 0.5)
    average.update_parameters(model)  # the first update copies
    expected = 1.0
    for n, value in enumerate((2.0, 5.0, -1.0), start=1):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        decay = ema_decay(n, 0.5)
        expected = decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert torch.equal(model.weight.data, torch.full((1, 1), -1.0))
