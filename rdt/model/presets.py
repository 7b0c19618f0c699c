"""What a policy is made of: one frozen record, presets, the published `config.json` (spec rdt.md 2, 4.1)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from data_pipeline.schema.layout import NUM_SLOTS
from rdt.diffusion.process import PredictionType
from rdt.model.layers import NormKind
from rdt.model.position import Layout

AdaptorInit = Literal["torch", "he"]


@dataclass(frozen=True, kw_only=True)
class RDTConfig:
    """Sizes and choices of one RDT policy; the defaults are those that RDT-1B and RDT-170M share."""

    hidden_size: int
    depth: int
    num_heads: int  # head_dim = hidden_size / num_heads
    pred_horizon: int = 64  # actions in a chunk
    action_dim: int = NUM_SLOTS
    state_token_dim: int = NUM_SLOTS
    lang_token_dim: int = 4096  # T5 v1.1 XXL
    img_token_dim: int = 1152  # SigLIP so400m
    max_lang_cond_len: int = 1024
    img_cond_len: int = 4374  # 2 frames x 3 cameras x 729 patches
    lang_pos_embed_config: Layout | None = None  # None: positions count tokens; else see `position.py`
    img_pos_embed_config: Layout | None = None
    lang_adaptor: str = "mlp2x_gelu"
    img_adaptor: str = "mlp2x_gelu"
    state_adaptor: str = "mlp3x_gelu"
    num_train_timesteps: int = 1000
    num_inference_timesteps: int = 5
    prediction_type: PredictionType = "sample"
    adaptor_init: AdaptorInit = "torch"  # not in the published config.json, where it does not matter any more
    norm: NormKind = "unbiased"  # not in the published config.json, where it is always `unbiased`

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.action_dim != self.state_token_dim:
            raise ValueError(
                f"action_dim {self.action_dim} and state_token_dim {self.state_token_dim} must be equal: "
                "one adaptor reads both"
            )
        for name, value, known in (
            ("prediction_type", self.prediction_type, get_args(PredictionType)),
            ("norm", self.norm, get_args(NormKind)),
            ("adaptor_init", self.adaptor_init, get_args(AdaptorInit)),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: use one of {list(known)}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def with_images(self, frames: int, cameras: int) -> RDTConfig:
        """The same network for another number of pictures, each of as many tokens as before."""
        grid = image_grid(self.img_pos_embed_config)
        if self.img_pos_embed_config is None or grid is None:
            return self  # nothing says which tokens are one picture's
        ((name, _),) = self.img_pos_embed_config
        now = tuple(size if had > 0 else -size for size, had in zip((frames, cameras, abs(grid[2])), grid, strict=True))
        return dataclasses.replace(
            self, img_cond_len=frames * cameras * abs(grid[2]), img_pos_embed_config=((name, now),)
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RDTConfig:
        """Read `config.json`, flat (as released) or nested under `config`; unknown keys are passed over."""
        members = {**data.get("config", {}), **data}
        network, scheduler = members.get("rdt", {}), members.get("noise_scheduler", {})
        schedule = scheduler.get("beta_schedule", "squaredcos_cap_v2")
        if schedule != "squaredcos_cap_v2":
            raise ValueError(f"beta_schedule {schedule!r} is not supported: RDT uses 'squaredcos_cap_v2'")
        sources = dict.fromkeys(cls.__dataclass_fields__, members)
        sources |= dict.fromkeys(("hidden_size", "depth", "num_heads"), network)
        sources |= dict.fromkeys(("num_train_timesteps", "num_inference_timesteps", "prediction_type"), scheduler)
        values = {name: source[name] for name, source in sources.items() if name in source}
        for name in ("lang_pos_embed_config", "img_pos_embed_config"):
            values[name] = _layout(values.get(name))
        missing = [f"rdt.{name}" for name in ("hidden_size", "depth", "num_heads") if name not in values]
        if missing:
            raise ValueError(f"config.json does not give {missing}: without them the network has no size")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The published flat form; `from_json` reads it back, and so does the published code."""
        return {
            "action_dim": self.action_dim,
            "pred_horizon": self.pred_horizon,
            "lang_token_dim": self.lang_token_dim,
            "img_token_dim": self.img_token_dim,
            "state_token_dim": self.state_token_dim,
            "max_lang_cond_len": self.max_lang_cond_len,
            "img_cond_len": self.img_cond_len,
            "lang_pos_embed_config": self.lang_pos_embed_config,
            "img_pos_embed_config": self.img_pos_embed_config,
            "rdt": {
                "hidden_size": self.hidden_size,
                "depth": self.depth,
                "num_heads": self.num_heads,
                "cond_pos_embed_type": "multimodal",
            },
            "lang_adaptor": self.lang_adaptor,
            "img_adaptor": self.img_adaptor,
            "state_adaptor": self.state_adaptor,
            "noise_scheduler": {
                "type": "ddpm",
                "num_train_timesteps": self.num_train_timesteps,
                "num_inference_timesteps": self.num_inference_timesteps,
                "beta_schedule": "squaredcos_cap_v2",
                "prediction_type": self.prediction_type,
                "clip_sample": False,
            },
            # the published trainer's average of weights; nothing here reads it
            "ema": {
                "update_after_step": 0,
                "inv_gamma": 1.0,
                "power": 0.75,
                "min_value": 0.0,
                "max_value": 0.9999,
            },
            "norm": self.norm,
            "adaptor_init": self.adaptor_init,
        }


def _layout(data: Sequence[Any] | None) -> Layout | None:
    """A layout of positions from JSON, which knows lists only."""
    if data is None:
        return None
    return tuple((name, extent if isinstance(extent, int) else tuple(extent)) for name, extent in data)


def image_grid(layout: Layout | None) -> tuple[int, int, int] | None:
    """(frames, cameras, patches) of a layout of picture tokens, negative where an axis has no positions."""
    match layout:
        case ((_, (int(frames), int(cameras), int(patches))),):
            return frames, cameras, patches
    return None


class _Presets(dict[str, RDTConfig]):
    def __missing__(self, name: str) -> RDTConfig:
        near = difflib.get_close_matches(name, self, n=1, cutoff=0.0)
        raise ValueError(f"unknown preset {name!r}; the nearest is {near[0]!r} (there are {sorted(self)})")


_T5_LAYOUT: Layout = (("lang", -1024),)  # no positions: T5 has put the order into its features
_SIGLIP_LAYOUT: Layout = (("image", (2, 3, -729)),)  # frame and camera; SigLIP has put the patch in

PRESETS: dict[str, RDTConfig] = _Presets(
    rdt_1b=RDTConfig(
        hidden_size=2048,
        depth=28,
        num_heads=32,
        lang_pos_embed_config=_T5_LAYOUT,
        img_pos_embed_config=_SIGLIP_LAYOUT,
    ),
    rdt_170m=RDTConfig(
        hidden_size=1024,
        depth=14,
        num_heads=32,
        lang_pos_embed_config=_T5_LAYOUT,
        img_pos_embed_config=_SIGLIP_LAYOUT,
    ),
    # 0.9 M parameters, for the embedded simulator on two CPU cores; its small encoders know no positions
    rdt_tiny=RDTConfig(
        hidden_size=128,
        depth=4,
        num_heads=4,
        pred_horizon=16,
        lang_token_dim=64,
        img_token_dim=64,
        max_lang_cond_len=16,
        adaptor_init="he",  # PyTorch's own drowns a small model's inputs in the position tables: 0.01 against 0.5
        img_cond_len=4,  # 1 frame x 1 camera x 4 tokens
        lang_pos_embed_config=(("lang", 16),),
        img_pos_embed_config=(("image", (1, 1, 4)),),
    ),
)
"""Configs by name; an unknown name is answered with the nearest one."""
