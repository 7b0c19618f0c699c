"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up; the defaults are RDT's published ones (spec rdt.md section 11)."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2  # on all parameters, as published
    schedule: str = "constant"  # constant | cosine (to 0 at the last step)
    warmup_steps: int = 0
    clip_norm: float = 1.0
    ema_decay: float = 0.0  # 0: no moving average

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"optim.schedule must be constant or cosine, got {self.schedule!r}")


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=all(p.device.type in ("cuda", "cpu") for p in parameters),
    )


def make_schedule(optimizer: Optimizer, config: OptimConfig, num_steps: int) -> LambdaLR:
    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        if config.schedule == "constant":
            return 1.0
        progress = (step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return LambdaLR(optimizer, factor)
