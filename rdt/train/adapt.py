"""What a run trains of its model, and how it spares memory and time, in the one order in which it works."""

from __future__ import annotations

from collections.abc import Callable

from rdt.train.config import TrainConfig
from rdt.train.freeze import freeze, trained_parameters
from rdt.train.lora import add_adapters
from rdt.visuomotor import VisuomotorPolicy


def adapt(model: VisuomotorPolicy, config: TrainConfig, report: Callable[[str], None] = print) -> None:
    """Freeze, add adapters, checkpoint activations, compile, in place.

    To be called before an optimizer or an average sees the parameters.
    """
    if config.freeze:  # first: patterns are over plain names, and what is frozen gets no adapter
        freeze(model, config.freeze)
    if config.lora.rank:
        add_adapters(model, config.lora)
    model.policy.model.checkpoint_blocks = config.activation_checkpointing == "blocks"
    if config.compile:  # block by block: they are all alike, so one is compiled for each kind of condition
        for block in model.policy.model.blocks:
            block.compile()
    report(trained_parameters(model))
