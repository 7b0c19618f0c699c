"""Checkpoints in the published formats: strict to load, readable by the published code (spec rdt.md 4).

A checkpoint is a folder (or a Hugging Face hub id) with `config.json` and `model.safetensors` or
`pytorch_model.bin`, or one file of weights, also a DeepSpeed `.pt` whose entry `module` is the state dict.
Pickles are read with `weights_only=True`: a file can be wrong, but it cannot run code. Left out: DeepSpeed's
sharded optimizer files, and resizing of positions to another horizon or camera set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS, RDTConfig

CONFIG_FILE = "config.json"
SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
# in the order in which the published loader looks, then where the published trainer writes
WEIGHT_FILES = (SAFETENSORS_FILE, PICKLE_FILE, DEEPSPEED_FILE, f"pytorch_model/{DEEPSPEED_FILE}")

MAX_LISTED_KEYS = 12  # of each kind in a mismatch message: a wrong depth concerns hundreds


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read or fitted; the message says what to do."""


def load_released(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> RDTPolicy:
    """The policy in a hub-format folder, a weights file or a hub id (`owner/name`).

    `dtype=None` takes the widest type in the file, so that a mixed file (bfloat16 network, float32 adaptors)
    loses nothing. A file of weights without a `config.json` beside or above it is matched with the presets.
    Raises `CheckpointError`.
    """
    file = _find_weights(path)
    state = _read_state(file)
    config = _read_config(file, state)
    with torch.device("meta"):
        policy = RDTPolicy(config)
    _check_fit(file, policy.state_dict(), state)
    dtype = dtype or max((t.dtype for t in state.values()), key=lambda d: torch.finfo(d).bits)
    # a copy: safetensors maps the file, and a policy must not change when somebody writes over it
    state = {key: state.pop(key).to(device, dtype, copy=True) for key in list(state)}
    policy.load_state_dict(state, assign=True)
    return policy.eval()


def save_released(policy: RDTPolicy, path: str | os.PathLike[str]) -> None:
    """Write `config.json` and `pytorch_model.bin` into the folder `path`, each in one move or not at all."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: t.detach().cpu().contiguous() for key, t in policy.state_dict().items()}
    # opened here, so that a full disk is the system's own error
    with _replacing(folder / PICKLE_FILE) as temporary, temporary.open("wb") as opened:
        torch.save(state, opened)
    with _replacing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(policy.config.to_json(), indent=2) + "\n")
    # an older one would be read in place of what was just written
    (folder / SAFETENSORS_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`; it takes the target's place only when the body has ended well."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _find_weights(path: str | os.PathLike[str]) -> Path:
    local = Path(path).expanduser()
    if local.is_file():
        return local
    if local.is_dir():
        for name in WEIGHT_FILES:
            if (local / name).is_file():
                return local / name
        raise CheckpointError(
            f"{local} holds no weights: expected one of {list(WEIGHT_FILES)}, "
            f"found {sorted(p.name for p in local.iterdir())}"
        )
    parts = str(path).split("/")
    if len(parts) == 2 and all(parts) and not str(path).startswith((".", "~")):
        return _download(str(path))
    raise CheckpointError(f"{local} does not exist: give a folder, a file of weights or a hub id 'owner/name'")


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


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            state: object = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(_unreadable(file, error)) from error
    if isinstance(state, Mapping) and isinstance(state.get("module"), Mapping):  # DeepSpeed
        state = state["module"]
    if not isinstance(state, Mapping) or not all(_is_weight(t) for t in state.values()):
        raise CheckpointError(
            f"{file} holds no state dict: expected a mapping of names to floating-point tensors, or one under 'module'"
        )
    return dict(state)


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _unreadable(file: Path, error: Exception) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(64)
    if head.startswith(b"version https://git-lfs"):
        return f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` or download the file itself"
    foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if foreign:
        return (
            f"{file} holds a Python object of {foreign[1]} besides tensors; it is not unpickled, because "
            "that could run code. If you trust the file, rewrite it once: "
            "torch.save(torch.load(file, weights_only=False)['module'], new_file)"
        )
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return f"{file} ({size} bytes) is cut short or damaged: fetch or write it again ({reason[0]})"


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
        return RDTConfig.from_json(json.loads(file.read_text()))
    except ValueError as error:  # json.JSONDecodeError is one
        raise CheckpointError(f"{file}: {error}") from error


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
