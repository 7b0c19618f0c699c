"""Which datasets are mixed, and in what proportion: `configs/datasets/mixtures/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
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
