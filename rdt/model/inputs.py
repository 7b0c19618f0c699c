"""What a policy may be given: shapes, types and devices, checked once at the door.

Only what the host knows is looked at, so that nothing waits for the device; values (a NaN, an instruction without
tokens) are not. Every message names the argument, what was expected, what came and what to do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rdt.model.presets import RDTConfig

_KINDS = {
    "floating-point": lambda tensor: tensor.is_floating_point(),
    "bool": lambda tensor: tensor.dtype == torch.bool,
    "integer": lambda tensor: not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool),
    "real": lambda tensor: not tensor.is_complex(),
}


def check_condition(
    config: RDTConfig,
    device: torch.device,
    *,
    lang_tokens: Tensor,
    lang_attn_mask: Tensor | None,
    img_tokens: Tensor,
    state_tokens: Tensor,
    action_mask: Tensor,
    ctrl_freqs: Tensor,
    lang_index: Tensor | None,
) -> None:
    """Raise `ValueError` for arguments of `RDTPolicy.encode_condition` that do not fit the config or one another."""
    _check("state_tokens", state_tokens, (None, 1, config.state_token_dim), "floating-point", device)
    batch = len(state_tokens)
    rows = batch if lang_index is None else None
    _check("lang_tokens", lang_tokens, (rows, None, config.lang_token_dim), "floating-point", device, _LANG)
    num_rows, length = lang_tokens.shape[:2]
    if not 1 <= length <= config.max_lang_cond_len:
        raise ValueError(
            f"lang_tokens holds {length} tokens an instruction, expected 1 to {config.max_lang_cond_len} "
            "(max_lang_cond_len): shorten the instruction, or load the checkpoint with a larger max_lang_cond_len; "
            "an empty instruction is the text encoder's single end token"
        )
    if lang_attn_mask is not None:
        _check("lang_attn_mask", lang_attn_mask, (num_rows, length), "bool", device, "True where a token counts")
    if lang_index is not None:
        _check("lang_index", lang_index, (batch,), "integer", device, "the row of lang_tokens that each sample reads")
    _check("img_tokens", img_tokens, (batch, config.img_cond_len, config.img_token_dim), "floating-point", device, _IMG)
    _check("action_mask", action_mask, (batch, 1, config.action_dim), "real", device, "1 where the robot has the slot")
    _check("ctrl_freqs", ctrl_freqs, (batch,), "real", device, "one control frequency in Hz a sample")


def check_actions(config: RDTConfig, device: torch.device, batch: int, **chunks: Tensor | None) -> None:
    """Raise `ValueError` for chunks of actions or noise that do not fit the config and the batch."""
    for name, chunk in chunks.items():
        if chunk is not None:
            _check(name, chunk, (batch, config.pred_horizon, config.action_dim), "floating-point", device, _CHUNK)


def check_timesteps(device: torch.device, batch: int, timesteps: Tensor | None) -> None:
    """Raise `ValueError` unless there is one whole timestep a sample."""
    if timesteps is not None:
        _check("timesteps", timesteps, (batch,), "integer", device, "one diffusion timestep a sample")


_LANG = "one row a sample, unless lang_index says which row each sample reads"
_IMG = (
    "(frame, camera, patch), oldest frame first; for other cameras or frames load the checkpoint with `cameras` or "
    "`image_history`"
)
_CHUNK = "(batch, pred_horizon, action_dim); for another chunk length load the checkpoint with `pred_horizon`"


def _check(
    name: str, tensor: Tensor, shape: tuple[int | None, ...], kind: str, device: torch.device, meaning: str = ""
) -> None:
    """One argument; None in a shape stands for any size."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(tensor).__name__}: use torch.as_tensor")
    fits = len(tensor.shape) == len(shape) and all(
        want is None or want == size for want, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        hint = f": {meaning}" if meaning else ""
        raise ValueError(f"{name} must have the shape ({wanted}), got {tuple(tensor.shape)}{hint}")
    if not _KINDS[kind](tensor):
        advice = {"bool": ".bool()", "floating-point": ".float()", "integer": ".long()", "real": ".real"}[kind]
        raise ValueError(
            f"{name} must be {kind}, got {str(tensor.dtype).removeprefix('torch.')}: convert it with {advice} "
            "if its values mean the same"
        )
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, the policy on {device}: move it with .to({str(device)!r})")
