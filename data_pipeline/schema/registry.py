"""Names that users type: the nearest known name for a typo, shipped YAML files by name, imports on use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


def unknown_name(what: str, name: str, known: Iterable[str], where: str = "") -> str:
    """The message for a name that does not exist: what it was, the nearest one, all of them when few."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    guess = f"did you mean {near[0]!r}?" if near else "none exist"
    choices = f" Choose from {', '.join(names)}." if 1 < len(names) <= 12 else ""
    return f"unknown {what} {name!r}{where}: {guess}{choices}"


def check_keys(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise `ValueError` for the first key of `given` that is not known, naming the nearest."""
    known = set(known)
    for key in given:
        if key not in known:
            raise ValueError(f"{what}: " + unknown_name("key", str(key), known))


def load_attribute(what: str, name: str, table: Mapping[str, str]) -> Any:
    """Import the entry `module:attribute` that a registry table holds under `name`."""
    if name not in table:
        raise ValueError(unknown_name(what, name, table))
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def configs_dir() -> Path:
    """The folder `configs/`: beside the packages in a checkout, inside this package when installed."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "configs"
    return checkout if checkout.is_dir() else package / "configs"


def find_config(kind: str, name_or_path: str | Path) -> Path:
    """A YAML file given as a path, or by its name among those shipped in `configs/<kind>/`.

    Raises `FileNotFoundError` that names the nearest shipped file.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_configs(kind)
    if path.parent == Path() and path.stem in shipped:
        return shipped[path.stem]
    if path.parent != Path():
        raise FileNotFoundError(f"no file {path}; the shipped {kind} configs are {', '.join(sorted(shipped))}")
    raise FileNotFoundError(unknown_name(f"{kind} config", path.stem, shipped, " (a YAML file's path works too)"))


def shipped_configs(kind: str) -> dict[str, Path]:
    """Name -> YAML file of those in `configs/<kind>/`."""
    return {path.stem: path for path in (configs_dir() / kind).glob("*.yaml")}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ValueError` with the file's name for anything else."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of keys, got {type(content).__name__}")
    return content
