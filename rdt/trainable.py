"""What the trainer trains: a policy, or one of the small networks beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Trainable(nn.Module):
    """A module whose forward pass is whatever an objective makes of it."""

    def forward(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """`call(self, *arguments)`, an objective for instance: DDP and FSDP see what goes through here."""
        return call(self, *arguments)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device
