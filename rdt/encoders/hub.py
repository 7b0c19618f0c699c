"""Where the files of published encoders are: a local folder, the folder of models, the hub's cache, the hub.

Loading is always from a folder in the end, so that nothing waits for a network that is not there: what is on this
machine is used without asking the hub. `RDT_MODELS` names a folder that holds models under their names
(`siglip-so400m-patch14-384` or `google/siglip-so400m-patch14-384`), for machines where a checkpoint's own paths mean
nothing. `HF_HUB_OFFLINE` and `HF_HOME` work as everywhere.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG = ("config.json",)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("spiece.model", "tokenizer.json")
WELCOME = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files that a tokenizer reads where they exist."""

SAMPLE_BYTES = 1 << 16
NUM_SAMPLES = 64


@dataclass(frozen=True)
class ModelName:
    """A model as a config names it, and what to say when it is not there."""

    what: str  # "vision encoder"
    name: str  # a local folder or a hub id
    option: str  # "condition.vision_path": the setting that points elsewhere
    needs: tuple[tuple[str, ...], ...] = (CONFIG, WEIGHTS)  # one file of each group

    @property
    def short(self) -> str:
        """The last part of the name, the same for a hub id and a folder called like it."""
        return Path(self.name).name

    def __str__(self) -> str:
        return f"{self.what} {self.name!r}"


def find_model(model: ModelName) -> Path | None:
    """The folder that holds the model on this machine, or None. Asks no network.

    Raises `ValueError` for a folder that was named and lacks files.
    """
    folders = [Path(model.name).expanduser()]
    if "RDT_MODELS" in os.environ:
        models = Path(os.environ["RDT_MODELS"]).expanduser()
        folders += [models / model.name, models / model.short]
    for folder in folders:
        if folder.is_dir():
            missing = _missing(folder, model)
            if missing:
                raise ValueError(f"{folder} is not a whole {model.what}: it lacks {_listed(missing)}")
            return folder
    cached = _in_hub_cache(model)
    return cached if cached and not _missing(cached, model) else None


def fetch_model(model: ModelName) -> Path:
    """The same, fetched from the hub where it is not on this machine. Raises `ValueError` that says what to do."""
    found = find_model(model)
    if found:
        return found
    if not _is_hub_id(model.name):
        raise ValueError(not_here(model, "there is no such folder"))
    if not _has_hub():
        raise ValueError(not_here(model, "huggingface_hub is not installed to fetch it"))
    try:
        return _download(model)
    except Exception as error:  # the hub's family of errors is wide: no such name, no network, no permission
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(not_here(model, f"it could not be fetched ({reason})")) from error


def not_here(model: ModelName, reason: str) -> str:
    """Which files to put where, and how to point to them."""
    source = f" from https://huggingface.co/{model.name}/tree/main" if _is_hub_id(model.name) else ""
    return (
        f"the {model} is not on this machine, and {reason}. Put {_listed(model.needs)}{source} into a folder, and "
        f"name it in {model.option}, or let RDT_MODELS name the folder that holds it as {model.short!r}"
    )


def read_config(folder: Path) -> dict:
    """The model's own `config.json`. Raises `ValueError` for a damaged one."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error}): fetch it again") from None


def fingerprint(folder: Path) -> str:
    """Sixteen characters that tell models apart: configuration, tokenizer, and samples of the weights.

    Of each file of weights, its size and 64 evenly spaced pieces of 64 KiB are read: milliseconds where all of it
    would take a minute, and the same on every machine, unlike dates.
    """
    digest = hashlib.sha256()
    for name in (*CONFIG, *TOKENIZER):
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    for name in _weight_files(folder):
        file = folder / name
        size = file.stat().st_size
        digest.update(f"{name} {size}".encode())
        with file.open("rb") as opened:
            for i in range(NUM_SAMPLES):
                opened.seek(max(size - SAMPLE_BYTES, 0) * i // (NUM_SAMPLES - 1))
                digest.update(opened.read(SAMPLE_BYTES))
                if size <= SAMPLE_BYTES:
                    break
    return digest.hexdigest()[:16]


def check_installed(what: str, modules: Sequence[str]) -> None:
    """Raise `ModuleNotFoundError` that says what to install, without importing anything heavy."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"{what} needs {', '.join(missing)}: pip install 'rdt-stack[encoders]'")


def _missing(folder: Path, model: ModelName) -> list[tuple[str, ...]]:
    """Groups of which the folder has no file; of weights in shards, every shard."""
    missing = [group for group in model.needs if not any((folder / name).is_file() for name in group)]
    return missing + [(name,) for name in _weight_files(folder) if not (folder / name).is_file()]


def _weight_files(folder: Path) -> list[str]:
    """The files that a loader takes weights from: the first kind there is, with the shards of an index."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return _shards(folder / name) if name.endswith(".index.json") else [name]
    return []


def _shards(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _listed(groups: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(" or ".join(group) for group in groups)


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~", "/"))


def _has_hub() -> bool:
    return importlib.util.find_spec("huggingface_hub") is not None


def _in_hub_cache(model: ModelName) -> Path | None:
    if not _is_hub_id(model.name) or not _has_hub():
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in model.needs[0]:
        path = try_to_load_from_cache(model.name, name)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _download(model: ModelName) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    def get(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(model.name, name))
        except LocalEntryNotFoundError:  # no network: the next name would wait as long
            raise
        except EntryNotFoundError:
            return None

    def first_of(group: tuple[str, ...]) -> Path | None:
        return next((path for path in map(get, group) if path), None)

    got = [first_of(group) for group in model.needs]
    absent = [group for group, path in zip(model.needs, got, strict=True) if path is None]
    if absent:
        raise ValueError(f"https://huggingface.co/{model.name} has no {_listed(absent)}")
    for path in got:
        if path and path.name.endswith(".index.json"):
            for shard in _shards(path):
                hf_hub_download(model.name, shard)
    if TOKENIZER in model.needs:
        for name in WELCOME:
            get(name)
    assert got[0] is not None
    return got[0].parent
