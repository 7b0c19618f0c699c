"""Exponential moving average of the weights, in fp32, through torch's own `AveragedModel`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rdt.train.parallel import local

Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_decay(num_updates: int, decay: float) -> float:
    """min(decay, (1 + n) / (10 + n)): the average of a young run forgets its random start."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that `update_parameters(model)` moves towards it after each optimizer step."""

    @torch.no_grad()
    def update(average: Tensors, current: Tensors, num_averaged: Tensor | int) -> None:
        # each rank moves its own share
        shares = [local(one) for one in average], [local(one) for one in current]
        torch._foreach_lerp_(*shares, 1 - ema_decay(int(num_averaged), decay))

    return AveragedModel(model, multi_avg_fn=update)
