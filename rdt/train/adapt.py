"""What a run trains of its model, in the one order in which it works."""

from __future__ import annotations

from collections.abc import Callable

from rdt.train.config import TrainConfig
from rdt.train.freeze import freeze, trained_parameters
from rdt.train.lora import add_adapters
from rdt.visuomotor import VisuomotorPolicy


def adapt(model: VisuomotorPolicy, config: TrainConfig, report: Callable[[str], None] = print) -> None:
    """Freeze and add adapters, in place; before an optimizer or an average sees the parameters."""
    if config.freeze:  # first: patterns are over plain names, and what is frozen gets no adapter
        freeze(model, config.freeze)
    if config.lora.rank:
        add_adapters(model, config.lora)
    report(trained_parameters(model))
