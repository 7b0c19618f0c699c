"""Checkpoints in the published formats: strict to load, readable by the published code (spec rdt.md 4).

A checkpoint is a folder (or a Hugging Face hub id) with `config.json` and `model.safetensors` or
`pytorch_model.bin`, or one file of weights, also a DeepSpeed `.pt` whose entry `module` is the state dict. Of a
folder that holds `checkpoint-<step>/` folders only, the newest is taken. A moving average of the weights lies in the
folder `ema/` below, for which the config of its parent counts.

Other chunk lengths, frames, cameras and language lengths are asked for by name, see `resize.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdt.model.manifest import verify
from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS, RDTConfig
from rdt.model.resize import resize_positions
from rdt.model.weights import (
    PICKLE_FILE,
    SAFETENSORS_FILE,
    WEIGHT_FILES,
    CheckpointError,
    WeightFormat,
    read_state,
    replacing,
    write_state,
)

CONFIG_FILE = "config.json"
EMA_FOLDER = "ema"

MAX_LISTED_KEYS = 12  # of each kind in a mismatch message: a wrong depth concerns hundreds


def load_released(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    ema: bool = False,
    pred_horizon: int | None = None,
    image_history: int | None = None,
    cameras: Sequence[str] | None = None,
    checkpoint_cameras: Sequence[str] | None = None,
    max_lang_cond_len: int | None = None,
    report: Callable[[str], None] = print,
) -> RDTPolicy:
    """The policy in a hub-format folder, a run's folder, a weights file or a hub id (`owner/name`).

    `dtype=None` takes the widest type in the file, so that a mixed file (bfloat16 network, float32 adaptors)
    loses nothing. A file of weights without a `config.json` beside or above it is matched with the presets.
    `ema` takes the moving average in place of the weights.

    The lengths and cameras resize the position tables (`resize_positions` says how); `report` then gets the account
    of what was kept and what is new, and the choice among several checkpoints of a run. A checkpoint of this stack is
    compared with its manifest first, which takes 0.2 s a GB (`manifest.py`). Raises `CheckpointError`, and `ValueError`
    for lengths that cannot be had.
    """
    file = _find_weights(path, ema, report)
    verify(file.parent, (file.name, CONFIG_FILE))
    state = read_state(file)
    config = _read_config(file, state)
    _check_fit(file, _meta_state(config), state)
    dtype = dtype or max((t.dtype for t in state.values()), key=lambda d: torch.finfo(d).bits)
    # a copy: safetensors maps the file, and a policy must not change when somebody writes over it
    state = {key: state.pop(key).to(device, dtype, copy=True) for key in list(state)}
    state, config, account = resize_positions(
        state,
        config,
        pred_horizon=pred_horizon,
        image_history=image_history,
        cameras=cameras,
        checkpoint_cameras=checkpoint_cameras,
        max_lang_cond_len=max_lang_cond_len,
    )
    if account.tables:
        report(str(account))
    with torch.device("meta"):
        policy = RDTPolicy(config)
    policy.load_state_dict(state, assign=True)
    return policy.eval()


def save_released(policy: RDTPolicy, path: str | os.PathLike[str], weight_format: WeightFormat = "bin") -> None:
    """Write `config.json` and the weights into the folder `path`, each in one move or not at all."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: t.detach().cpu().contiguous() for key, t in policy.state_dict().items()}
    write_state(folder, state, weight_format)
    with replacing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(policy.config.to_json(), indent=2) + "\n")


@dataclass(frozen=True)
class ReleasedSummary:
    """What a released checkpoint holds, from its shapes alone."""

    file: Path
    num_bytes: int
    config: RDTConfig
    num_parameters: int
    dtypes: Mapping[torch.dtype, int]  # number of tensors of each type
    ema: Path | None  # a moving average beside the weights

    def __str__(self) -> str:
        config = self.config
        types = ", ".join(f"{count} {str(dtype).removeprefix('torch.')}" for dtype, count in self.dtypes.items())
        preset = [name for name, known in PRESETS.items() if known == config]
        rows = [
            ("weights", f"{self.file} ({self.num_bytes / 1e9:.3f} GB)"),
            ("network", f"{self.num_parameters:,} parameters in {sum(self.dtypes.values())} tensors ({types})"),
            ("preset", preset[0] if preset else "none of these sizes and choices"),
            ("sizes", f"{config.depth} blocks of width {config.hidden_size}, {config.num_heads} heads"),
            ("norm", config.norm),
            ("chunk", f"{config.pred_horizon} actions of {config.action_dim} slots"),
            ("language", f"up to {config.max_lang_cond_len} tokens of width {config.lang_token_dim}"),
            ("", f"positions {config.lang_pos_embed_config or 'count tokens'}, adaptor {config.lang_adaptor}"),
            ("images", f"{config.img_cond_len} tokens of width {config.img_token_dim}"),
            ("", f"positions {config.img_pos_embed_config or 'count tokens'}, adaptor {config.img_adaptor}"),
            ("state", f"adaptor {config.state_adaptor}"),
            (
                "diffusion",
                f"predicts {config.prediction_type}, {config.num_inference_timesteps} steps of "
                f"{config.num_train_timesteps}",
            ),
            ("average", str(self.ema) if self.ema else "none"),
        ]
        return "\n".join(f"{title:10s}{text}" for title, text in rows)


def inspect_released(
    path: str | os.PathLike[str], *, ema: bool = False, report: Callable[[str], None] = print
) -> ReleasedSummary:
    """Check a checkpoint as strictly as loading does, without reading the weights themselves."""
    file = _find_weights(path, ema, report)
    verify(file.parent, (CONFIG_FILE,))
    verify(file.parent, (file.name,), contents=False)
    state = read_state(file, meta=True)
    config = _read_config(file, state)
    _check_fit(file, _meta_state(config), state)
    # a DeepSpeed file may lie one folder below
    averages = [found for folder in (file.parent, file.parent.parent) if (found := folder / EMA_FOLDER).is_dir()]
    return ReleasedSummary(
        file=file,
        num_bytes=file.stat().st_size,
        config=config,
        num_parameters=sum(tensor.numel() for tensor in state.values()),
        dtypes=Counter(tensor.dtype for tensor in state.values()),
        ema=averages[0] if averages and averages[0] != file.parent else None,
    )


def _meta_state(config: RDTConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return RDTPolicy(config).state_dict()


def _find_weights(path: str | os.PathLike[str], ema: bool, report: Callable[[str], None]) -> Path:
    local = Path(path).expanduser()
    if local.is_dir():
        folder = _newest_of_run(local, report)
        if ema:
            folder = folder / EMA_FOLDER
            if not folder.is_dir():
                raise CheckpointError(f"{folder} does not exist: this checkpoint has no moving average of its weights")
        for name in WEIGHT_FILES:
            if (folder / name).is_file():
                return folder / name
        raise CheckpointError(
            f"{folder} holds no weights: expected one of {list(WEIGHT_FILES)} or folders checkpoint-<step>, "
            f"found {sorted(p.name for p in folder.iterdir())}"
        )
    if ema:
        raise CheckpointError(f"{path} is no folder: a moving average is looked for in the folder ema/ of a checkpoint")
    if local.is_file():
        return local
    parts = str(path).split("/")
    if len(parts) == 2 and all(parts) and not str(path).startswith((".", "~")):
        return _download(str(path))
    raise CheckpointError(f"{local} does not exist: give a folder, a file of weights or a hub id 'owner/name'")


def _newest_of_run(folder: Path, report: Callable[[str], None]) -> Path:
    """The folder itself, unless only its `checkpoint-<step>` folders hold weights."""
    if _holds_weights(folder):
        return folder
    steps = {
        int(match[1]): inner
        for inner in folder.iterdir()
        if (match := re.fullmatch(r"checkpoint-(\d+)", inner.name)) and _holds_weights(inner)
    }
    if not steps:
        return folder
    newest = steps[max(steps)]
    report(f"{folder} holds checkpoints of steps {', '.join(map(str, sorted(steps)))}: taking {newest.name}")
    return newest


def _holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHT_FILES)


def _download(hub_id: str) -> Path:
    """The weights of a hub repository in the local cache, with its `config.json` beside them."""
    by_hand = (
        f"To load it without the hub, put {CONFIG_FILE} and {PICKLE_FILE} (or {SAFETENSORS_FILE}) from "
        f"https://huggingface.co/{hub_id}/tree/main into a folder and give that folder."
    )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError
    except ImportError:
        raise CheckpointError(
            f"{hub_id!r} is no local path, and huggingface_hub is not installed to fetch it. {by_hand}"
        ) from None
    try:
        hf_hub_download(hub_id, CONFIG_FILE)
        try:
            return Path(hf_hub_download(hub_id, SAFETENSORS_FILE))
        except EntryNotFoundError:
            return Path(hf_hub_download(hub_id, PICKLE_FILE))
    except Exception as error:  # the hub's family of errors is wide: no such name, no network, no permission
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{hub_id!r} is no local path and could not be fetched: {reason[0]} {by_hand}") from error


def _read_config(file: Path, state: Mapping[str, Tensor]) -> RDTConfig:
    """The config beside the weights or one folder above; without one, the preset of its width and depth."""
    for folder in (file.parent, file.parent.parent):
        if (folder / CONFIG_FILE).is_file():
            config = _parse_config(folder / CONFIG_FILE)
            break
    else:
        depth = len({key.split(".")[2] for key in state if key.startswith("model.blocks.")})
        width = state["model.x_pos_embed"].shape[-1] if "model.x_pos_embed" in state else None
        fitting = [c for c in PRESETS.values() if (c.hidden_size, c.depth) == (width, depth)]
        if not fitting:
            raise CheckpointError(
                f"{file}: no {CONFIG_FILE} beside it or one folder above, and no preset of {sorted(PRESETS)} "
                f"has its {depth} blocks of width {width}"
            )
        config = fitting[0]
    head_norm = state.get("model.blocks.0.attn.q_norm.weight")
    if head_norm is not None and config.hidden_size % head_norm.numel() == 0:
        # the number of heads stands in the weights too, and those were trained with it
        config = dataclasses.replace(config, num_heads=config.hidden_size // head_norm.numel())
    return config


def _parse_config(file: Path) -> RDTConfig:
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"expected an object with the policy's sizes, got {type(content).__name__}")
        return RDTConfig.from_json(content)
    except (ValueError, TypeError, AttributeError) as error:  # json.JSONDecodeError is a ValueError
        raise CheckpointError(f"{file} is not the config of a policy: {error}") from error


def _check_fit(file: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    reshaped = [
        f"{key}: expected {tuple(expected[key].shape)}, found {tuple(found[key].shape)}"
        for key in expected
        if key in found and expected[key].shape != found[key].shape
    ]
    if not missing and not unexpected and not reshaped:
        return
    report = [f"{file} does not fit the network of its {CONFIG_FILE}:"]
    for title, lines in (("missing", missing), ("unexpected", unexpected), ("wrong shape", reshaped)):
        if lines:
            report.append(f"  {title} ({len(lines)}):")
            report += [f"    {line}" for line in lines[:MAX_LISTED_KEYS]]
            if len(lines) > MAX_LISTED_KEYS:
                report.append(f"    ... and {len(lines) - MAX_LISTED_KEYS} more")
    raise CheckpointError("\n".join(report))
