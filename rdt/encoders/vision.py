"""Vision encoders: pictures -> tokens. The small one below trains along with the policy; published ones are frozen.

An encoder takes square RGB pictures already resized to its `image_size` and normalised by its `mean` and `std`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rdt.encoders.pixels import Channels

if TYPE_CHECKING:
    from rdt.encoders.condition import ConditionConfig


class VisionEncoder(Protocol):
    """What the condition encoder asks of a vision encoder; the implementations are `nn.Module`s."""

    image_size: int
    token_dim: int
    tokens_per_image: int
    frozen: bool  # never trained: its features depend on the picture alone, and no checkpoint holds its weights
    mean: Channels  # of pixels in [0, 1]: it reads (pixel - mean) / std
    std: Channels

    def __call__(self, pixels: Tensor) -> Tensor:
        """(image, 3, image_size, image_size), normalised -> (image, tokens_per_image, token_dim)."""
        ...


def spatial_softmax(
    maps: Float[Tensor, "image channel height width"], temperature: Float[Tensor, "#one"]
) -> Float[Tensor, "image channel*2"]:
    """Expected (x, y) of each channel's softmax over the picture, in [-1, 1] (Finn et al. 2016, eq. 2).

    `temperature` multiplies the activations: larger is sharper.
    """
    n, channels, height, width = maps.shape
    weights = (maps.flatten(2) * temperature).softmax(dim=-1).view(n, channels, height, width)
    x = torch.linspace(-1, 1, width, device=maps.device, dtype=maps.dtype)
    y = torch.linspace(-1, 1, height, device=maps.device, dtype=maps.dtype)
    return torch.cat([weights.sum(2) @ x, weights.sum(3) @ y], dim=1)


class SpatialSoftmax(nn.Module):
    """Three convolutions and soft keypoints, read out as a few tokens: where things are, at little cost.

    A quarter-resolution map of `num_keypoints` channels becomes 2 * num_keypoints coordinates. The sharp
    initial temperature matters: at 1 the keypoints of a small object average over the table
    (spec quickstart_sim.md section 4).
    """

    frozen = False
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)

    def __init__(
        self,
        token_dim: int = 64,
        tokens_per_image: int = 4,
        image_size: int = 64,
        num_keypoints: int = 32,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.token_dim = token_dim
        self.tokens_per_image = tokens_per_image
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),  # narrow: at full width this layer costs half of the encoder
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, num_keypoints, 3, padding=1),
        )
        self.temperature = nn.Parameter(torch.tensor([10.0]))  # not a scalar: FSDP has no share of one
        self.readout = nn.Sequential(
            nn.Linear(2 * num_keypoints, 128), nn.GELU(), nn.Linear(128, tokens_per_image * token_dim)
        )
        self.init_weights()
        self.to(memory_format=torch.channels_last)  # the faster convolution layout on CPUs and GPUs alike

    @classmethod
    def from_config(cls, config: ConditionConfig, *, token_dim: int, tokens_per_image: int) -> SpatialSoftmax:
        """As many tokens, as wide, as the network wants."""
        if config.vision_path:
            raise ValueError(
                "spatial_softmax has no files: remove condition.vision_path, or set condition.vision to siglip or timm:"
            )
        return cls(token_dim=token_dim, tokens_per_image=tokens_per_image)

    @torch.no_grad()
    def init_weights(self) -> None:
        """He normal weights, zero biases: with PyTorch's own, a moved cube would move a token by 0.0003 at first."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.bias.zero_()

    def forward(self, pixels: Float[Tensor, "image 3 size size"]) -> Float[Tensor, "image token dim"]:
        maps = self.convolutions(pixels.contiguous(memory_format=torch.channels_last))
        keypoints = spatial_softmax(maps, self.temperature)
        return self.readout(keypoints).view(-1, self.tokens_per_image, self.token_dim)


VISION_ENCODERS = {
    "spatial_softmax": "rdt.encoders.vision:SpatialSoftmax",
    "siglip": "rdt.encoders.siglip:SiglipVision",
    "timm:NAME": "rdt.encoders.timm_vision:TimmVision",
}
"""Name in a config -> class with `from_config(config, token_dim=, tokens_per_image=)`: what the network reads.

After `timm:` stands the name of a backbone.
"""
