"""Networks that are read, used and never trained.

A `FrozenTower` stands outside the module tree of whoever holds it: no optimizer, moving average, gradient norm or
checkpoint sees its weights, and copies of the holder share them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def serving_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, as the encoders are published; float32 elsewhere, where bfloat16 is slow."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class FrozenTower:
    """Reads a network when it is first needed, and keeps it where its inputs are.

    Building a policy to check a config therefore reads no weights.
    """

    def __init__(self, load: Callable[[torch.dtype], nn.Module]) -> None:
        self._load = load
        self._network: nn.Module | None = None
        self._device: torch.device | None = None

    def on(self, device: torch.device) -> nn.Module:
        """The network on a device, in evaluation mode and in that device's type."""
        if self._network is None or self._device != device:
            with torch.inference_mode(False):  # whoever asks first: training may need it later
                network = self._network or self._load(serving_dtype(device))
                self._network = network.to(device, serving_dtype(device)).eval().requires_grad_(False)
                self._device = device
        return self._network

    def __call__(self, function: Callable[[nn.Module, Tensor], Tensor], pixels: Tensor) -> Tensor:
        """`function(network, pixels)` without a graph, the pixels cast to the network's type.

        Autocast is left out: it would have the norms of a network that is narrow already in float32, and cast back.
        """
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            return function(self.on(pixels.device), pixels.to(serving_dtype(pixels.device)))

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTower:
        return self
