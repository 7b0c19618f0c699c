"""Any timm backbone as a frozen vision tower: the one file where timm enters, when a config names it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from data_pipeline.schema.registry import unknown_name
from rdt.encoders.frozen import FrozenTower
from rdt.encoders.hub import WEIGHTS, ModelName, check_installed, fetch_model
from rdt.encoders.pixels import Channels

if TYPE_CHECKING:
    from rdt.encoders.condition import ConditionConfig


class TimmVision(nn.Module):
    """Patch tokens of a transformer, class and register tokens left out; the cells of another network's last map.

    Features are those of `forward_features`, after the last norm. Size, mean and deviation of the pictures are the
    backbone's own.
    """

    frozen = True

    def __init__(self, backbone: str, weights: Path) -> None:
        """`weights` is a file in timm's format for that backbone."""
        super().__init__()
        with torch.device("meta"):
            network = _create(backbone)
            data = _data_config(network)
            self.image_size = int(data["input_size"][-1])
            tokens = _tokens(network, torch.empty(1, 3, self.image_size, self.image_size))
        self.tokens_per_image, self.token_dim = tokens.shape[1:]
        self.mean: Channels = tuple(data["mean"])
        self.std: Channels = tuple(data["std"])
        self._tower = FrozenTower(partial(_load, backbone, weights))

    @classmethod
    def from_config(cls, config: ConditionConfig, *, token_dim: int, tokens_per_image: int) -> TimmVision:
        """The backbone after `timm:`, with the weights of `vision_path` or timm's own."""
        check_installed("a timm vision encoder", ["timm"])
        import timm

        backbone = config.vision.removeprefix("timm:")
        if not timm.is_model(backbone):
            raise ValueError(unknown_name("timm backbone", backbone, timm.list_models()))
        own = timm.get_pretrained_cfg(backbone)
        name = config.vision_path or (own and own.hf_hub_id)
        if not name:
            raise ValueError(
                f"timm has no weights of its own for {backbone!r}: set condition.vision_path to a folder with them"
            )
        filename = own.hf_hub_filename if own and not config.vision_path else None
        weights = (filename,) if filename else WEIGHTS[::2]  # timm knows no shards
        folder = fetch_model(ModelName("vision encoder", name, "condition.vision_path", (weights,)))
        return cls(backbone, next(folder / file for file in weights if (folder / file).is_file()))

    def forward(self, pixels: Float[Tensor, "image 3 size size"]) -> Float[Tensor, "image token dim"]:
        return self._tower(_tokens, pixels)


def _create(backbone: str) -> nn.Module:
    import timm

    return timm.create_model(backbone, num_classes=0).eval()


def _data_config(network: nn.Module) -> dict:
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(network)


def _load(backbone: str, weights: Path, dtype: torch.dtype) -> nn.Module:
    """timm's own loading leaves at random what a file lacks; here that is an error. A classifier is passed by."""
    from timm.models import load_state_dict

    network = _create(backbone)
    # each family keeps beside it what brings older and foreign files into its form
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        state = load_state_dict(str(weights), device="cpu", weights_only=True)
        lost = network.load_state_dict(convert(state, network) if convert else state, strict=False).missing_keys
        if lost:
            raise RuntimeError(f"it lacks {', '.join(lost[:4])}")
    except (RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{weights} does not hold the weights of timm's {backbone!r}: {reason}") from None
    return network.to(dtype)


def _tokens(network: nn.Module, pixels: Tensor) -> Tensor:
    """(image, token, dim) of what `forward_features` gives: tokens, or a map with channels first or last."""
    features = network.forward_features(pixels)  # type: ignore[operator]
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise ValueError(f"timm's {type(network).__name__} gives no tokens and no map: choose another backbone")
    if features.ndim == 3:
        return features[:, getattr(network, "num_prefix_tokens", 0) :]
    last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
