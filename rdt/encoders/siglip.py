"""SigLIP, the vision tower of the released policies (spec rdt.md section 6.1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from rdt.encoders.frozen import FrozenTower
from rdt.encoders.hub import ModelName, check_installed, fetch_model, read_config
from rdt.encoders.pixels import Channels
from rdt.encoders.pretrained import load_siglip

if TYPE_CHECKING:
    from rdt.encoders.condition import ConditionConfig

SO400M = "google/siglip-so400m-patch14-384"


class SiglipVision(nn.Module):
    """All patch features after the last layer norm; the pooling head is neither built nor read.

    Of so400m patch14 384: 729 tokens (27 x 27) of width 1152.
    """

    frozen = True
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)

    def __init__(self, folder: Path) -> None:
        """Sizes from the folder's `config.json`, of the vision tower alone or of the whole SigLIP."""
        super().__init__()
        sizes = read_config(folder)
        sizes = sizes.get("vision_config", sizes)
        # the library's defaults stand where the file, as it is released, leaves sizes out
        self.image_size = int(sizes.get("image_size", 224))
        self.token_dim = int(sizes.get("hidden_size", 768))
        self.tokens_per_image = (self.image_size // int(sizes.get("patch_size", 16))) ** 2
        self._tower = FrozenTower(partial(load_siglip, folder))

    @classmethod
    def from_config(cls, config: ConditionConfig, *, token_dim: int, tokens_per_image: int) -> SiglipVision:
        """The tower that `vision_path` names; its sizes are its own."""
        check_installed("the SigLIP vision encoder", ["transformers"])
        name = ModelName("vision encoder", config.vision_path or SO400M, "condition.vision_path")
        return cls(fetch_model(name))

    def forward(self, pixels: Float[Tensor, "image 3 size size"]) -> Float[Tensor, "image token dim"]:
        return self._tower(lambda network, x: network(pixel_values=x).last_hidden_state, pixels)
