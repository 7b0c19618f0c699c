"""Files of weights: pickles, safetensors and DeepSpeed's, read without running code and written whole or not at all.

Pickles are read with `weights_only=True`: a file can be wrong, but it cannot run code. Left out: DeepSpeed's sharded
optimizer files.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
DEEPSPEED_FILE = "mp_rank_00_model_states.pt"

WeightFormat = Literal["bin", "safetensors", "deepspeed"]

FORMAT_FILES: dict[WeightFormat, str] = {
    "safetensors": SAFETENSORS_FILE,
    "bin": PICKLE_FILE,
    "deepspeed": f"pytorch_model/{DEEPSPEED_FILE}",  # where the published trainer writes it
}

# in the order in which the published loader looks, then what the published trainer leaves
WEIGHT_FILES = (SAFETENSORS_FILE, PICKLE_FILE, DEEPSPEED_FILE, FORMAT_FILES["deepspeed"])


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read or fitted; the message says what to do."""


def read_state(file: Path, *, meta: bool = False) -> dict[str, Tensor]:
    """Names and tensors; on the meta device (shapes and types) the content is not read. Raises `CheckpointError`."""
    try:
        if file.suffix == ".safetensors":
            state: object = load_file(file)  # a map of the file: nothing is read before it is used
        elif meta:
            state = torch.load(file, map_location="meta", mmap=zipfile.is_zipfile(file), weights_only=True)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a foreign or damaged file may bring the reader down in any way
        raise CheckpointError(_unreadable(file, error)) from error
    if isinstance(state, Mapping) and isinstance(state.get("module"), Mapping):  # DeepSpeed
        state = state["module"]
    if not isinstance(state, Mapping) or not state or not all(_is_weight(t) for t in state.values()):
        raise CheckpointError(
            f"{file} holds no state dict: expected a mapping of names to floating-point tensors, or one under 'module'"
        )
    return {key: tensor.to("meta") if meta else tensor for key, tensor in state.items()}


def write_state(folder: Path, state: Mapping[str, Tensor], weight_format: WeightFormat) -> None:
    """Write the file of a format into a folder, in one move or not at all.

    Afterwards the folder reads as this state: a file that would be read before it is removed.
    """
    if weight_format not in FORMAT_FILES:
        raise ValueError(f"unknown format {weight_format!r}: use one of {sorted(FORMAT_FILES)}")
    name = FORMAT_FILES[weight_format]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    # opened here, so that a full disk is the system's own error
    with replacing(folder / name) as temporary, temporary.open("wb") as opened:
        if weight_format == "safetensors":
            opened.write(safetensors_bytes(dict(state), metadata={"format": "pt"}))
        else:
            torch.save({"module": dict(state)} if weight_format == "deepspeed" else dict(state), opened)
    for earlier in WEIGHT_FILES[: WEIGHT_FILES.index(name)]:
        (folder / earlier).unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`; it takes the target's place only when the body has ended well."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _unreadable(file: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{file} may not be read: change its permissions"
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
