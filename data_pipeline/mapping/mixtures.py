"""Which datasets are mixed, and in what proportion: `configs/datasets/mixtures/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.schema.registry import check_keys, read_yaml, unknown_name

WeightUnit = Literal["episode", "step"]
_UNITS = ("episode", "step")


@dataclass(frozen=True)
class MixtureConfig:
    """Datasets and their weights. Unit episode: a draw is an episode, as published; unit step: a draw is a step."""

    name: str
    weights: Mapping[str, float]  # dataset name -> weight, above 0
    weight_unit: WeightUnit = "episode"

    def share(self, dataset: str) -> float:
        """The dataset's part of all draws."""
        if dataset not in self.weights:
            raise ValueError(unknown_name("dataset", dataset, self.weights, f" in mixture {self.name!r}"))
        return self.weights[dataset] / sum(self.weights.values())


@dataclass(frozen=True)
class Matched:
    """The stores that a mixture reads, and what it leaves out."""

    stores: Mapping[Path, float]  # store -> weight
    unread: tuple[str, ...]  # names of stores that it does not mention
    missing: tuple[str, ...]  # datasets that have no store


def match_stores(mixture: MixtureConfig, stores: Sequence[Path], *, skip_missing: bool = False) -> Matched:
    """Datasets are stores by the names of their folders.

    Raises `ValueError` for a dataset without a store, unless `skip_missing`, whose weights then stand as they are.
    """
    by_name: dict[str, Path] = {}
    for path in stores:
        other = by_name.setdefault(path.name, path)
        if other != path:
            raise ValueError(
                f"{other} and {path} have one name, and mixture {mixture.name!r} goes by names: rename one"
            )
    missing = [name for name in mixture.weights if name not in by_name]
    if missing and not skip_missing:
        more = f" ({len(missing)} datasets are without, data.mixture_missing: skip leaves them out)"
        raise ValueError(unknown_name("store", missing[0], by_name, f" in mixture {mixture.name!r}") + more)
    matched = {by_name[name]: weight for name, weight in mixture.weights.items() if name in by_name}
    if not matched:
        raise ValueError(f"no store of mixture {mixture.name!r} is here: it names {', '.join(mixture.weights)}")
    return Matched(matched, tuple(name for name in by_name if name not in mixture.weights), tuple(missing))


def read_mixture(path: str | Path) -> MixtureConfig:
    """Raises `ValueError` that begins with the file's name."""
    raw = read_yaml(path)
    try:
        return _parse(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parse(raw: Mapping[str, Any]) -> MixtureConfig:
    check_keys("mixture", raw, ("name", "notes", "weight_unit", "datasets"))
    unit, weights = raw.get("weight_unit", "episode"), raw.get("datasets")
    if unit not in _UNITS:
        raise ValueError(unknown_name("weight_unit", str(unit), _UNITS))
    if not isinstance(raw.get("name"), str) or not isinstance(weights, Mapping) or not weights:
        raise ValueError("a mixture needs a name and datasets: {NAME: weight}")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            raise ValueError(f"the weight of {name} must be a number above 0, got {weight!r}")
    return MixtureConfig(raw["name"], dict(weights), unit)
