"""Optimizers and learning-rate schedules. Eight-bit AdamW comes from torchao, all else from PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

OptimizerName = Literal["adamw", "adamw8bit", "adafactor"]
Decay = Literal["all", "matrices"]
Schedule = Literal["constant", "linear", "cosine", "wsd"]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up; the defaults are RDT's published ones (spec rdt.md section 11)."""

    name: OptimizerName = "adamw"  # adamw8bit keeps its states in 8 bits; adafactor keeps rows and columns of them
    lr: float = 1e-4  # of adafactor: relative to the size of a weight
    betas: tuple[float, float] = (0.9, 0.999)  # of both AdamW
    eps: float = 1e-8  # of both AdamW
    weight_decay: float = 1e-2
    decay: Decay = "all"  # all parameters, as published, or matrices: weights of linear and convolution layers alone
    schedule: Schedule = "constant"  # wsd: constant, then linear to the end; cosine falls from the start
    warmup_steps: int = 0
    final_lr: float = 0.0  # of linear, cosine and wsd: share of lr at the last step
    wsd_decay: float = 0.2  # of wsd: share of the run in which it falls
    clip_norm: float = 1.0
    ema_decay: float = 0.0  # 0: no moving average

    def __post_init__(self) -> None:
        for key, known in (("name", OptimizerName), ("decay", Decay), ("schedule", Schedule)):
            if getattr(self, key) not in get_args(known):
                raise ValueError(f"optim.{key} must be one of {list(get_args(known))}, got {getattr(self, key)!r}")
        if not 0 <= self.final_lr <= 1 or not 0 < self.wsd_decay <= 1:
            raise ValueError(
                f"optim.final_lr must be in [0, 1] and optim.wsd_decay in (0, 1], got {self.final_lr}, {self.wsd_decay}"
            )


def make_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Over the parameters that train. Raises `ModuleNotFoundError` without the extra `gpu` for eight bits."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": config.weight_decay}]
    if config.decay == "matrices":
        weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
        matrices = [p for p in parameters if id(p) in weights]
        others = [p for p in parameters if id(p) not in weights]
        groups = [
            {"params": part, "weight_decay": decay}
            for part, decay in ((matrices, config.weight_decay), (others, 0.0))
            if part
        ]
    if config.name == "adafactor":
        if not hasattr(torch.optim, "Adafactor"):
            raise ModuleNotFoundError(f"optim.name adafactor needs PyTorch 2.5, this is {torch.__version__}")
        return torch.optim.Adafactor(groups, lr=config.lr)
    if config.name == "adamw8bit":
        return _eight_bit_adamw()(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    fused = all(p.device.type in ("cuda", "cpu") for p in parameters)
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def make_schedule(optimizer: Optimizer, config: OptimConfig, num_steps: int) -> LambdaLR:
    """The learning rate of each step as a function of the step alone."""
    return LambdaLR(optimizer, lambda step: _factor(step, config, num_steps))


def _factor(step: int, config: OptimConfig, num_steps: int) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    start = config.warmup_steps
    if config.schedule == "wsd":
        start = max(start, num_steps - math.ceil(config.wsd_decay * num_steps))
    progress = min(max(step - start, 0) / max(num_steps - start, 1), 1.0)
    left = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.final_lr + (1 - config.final_lr) * left


def _eight_bit_adamw() -> Callable[..., Optimizer]:
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ModuleNotFoundError(
            f"optim.name adamw8bit needs torchao ({error}): pip install 'rdt-stack[gpu]', or choose adamw"
        ) from None
    return AdamW8bit
