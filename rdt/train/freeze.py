"""Which parameters train: glob patterns over their names, as `state_dict` spells them, take some out."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from data_pipeline.schema.registry import unknown_name
from rdt.visuomotor import VisuomotorPolicy


def freeze(model: VisuomotorPolicy, patterns: Sequence[str]) -> None:
    """Stop training the parameters that any pattern names ("condition.vision.*", "policy.lang_adaptor.*").

    Raises `ValueError` for a pattern that names nothing, and when nothing is left to train.
    """
    for parameter in matching(model, patterns, "freeze").values():
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze {list(patterns)} leaves nothing to train")


def matching(model: VisuomotorPolicy, patterns: Sequence[str], where: str) -> dict[str, nn.Parameter]:
    """Parameters whose names match at least one pattern. `ValueError` names the nearest for one that matches none."""
    parameters = dict(model.named_parameters())
    found: dict[str, nn.Parameter] = {}
    for pattern in patterns:
        fitting = {name: parameter for name, parameter in parameters.items() if fnmatchcase(name, pattern)}
        if not fitting:
            raise ValueError(f"{where}: {unknown_name('parameter', pattern, _spellings(parameters))}{_hint(model)}")
        found |= fitting
    return found


def trained_parameters(model: nn.Module) -> str:
    """How many parameters train, of how many, in words."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{trained:,} of {total:,} parameters train ({100 * trained / total:.3g} %)"


def _spellings(names: dict[str, nn.Parameter]) -> set[str]:
    """All names, and a pattern for each module."""
    parts = [name.split(".") for name in names]
    return set(names) | {".".join([*path[:depth], "*"]) for path in parts for depth in range(1, len(path))}


def _hint(model: VisuomotorPolicy) -> str:
    published = [
        name for name in ("vision", "text") if not list(getattr(model.condition, name).parameters(recurse=True))
    ]
    if not published:
        return ""
    return f" (the {' and '.join(published)} encoder is a published one, which never trains)"
