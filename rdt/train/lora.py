"""Low-rank adapters (LoRA, Hu et al. 2021) through peft: the only file that knows that library.

A linear layer's frozen weight W gets a trained update of rank r, `W + alpha / r B A`. While a run trains, its
`trainer.pt` holds W, A and B apart, for an exact resume; what it saves to act with is `merged`, a plain policy.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rdt.train.freeze import matching
from rdt.visuomotor import VisuomotorPolicy

ADAPTER = "default"


@dataclass(frozen=True)
class LoraConfig:
    """Which layers of the network get adapters, and what trains in full beside them; patterns as in `freeze`.

    Encoders that train along do so with adapters too, unless they are frozen by name.
    """

    rank: int = 0  # usually 8 to 64; 0: no adapters
    alpha: int = 32  # the update is scaled by alpha / rank
    dropout: float = 0.0  # of the adapters' input
    targets: tuple[str, ...] = ("policy.model.blocks.*",)  # the linear layers among these get adapters
    also_train: tuple[str, ...] = (
        "policy.*_adaptor.*",
        "policy.model.final_layer.*",
    )  # where a robot meets the network

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "lora.rank must be 0 or more, lora.alpha positive and lora.dropout in [0, 1), got "
                f"{self.rank}, {self.alpha} and {self.dropout}"
            )


def add_adapters(model: VisuomotorPolicy, config: LoraConfig) -> None:
    """Put adapters into the network, in place, and stop training all else of it but `also_train`.

    The update is 0 at first. What was frozen before stays so, and gets no adapter. Raises `ValueError` for a pattern
    that names nothing, `ModuleNotFoundError` without the extra `lora`.
    """
    try:
        import peft
    except ImportError as error:
        raise ModuleNotFoundError(f"lora needs peft ({error}): pip install 'rdt-stack[lora]'") from None
    targets = matching(model, config.targets, "lora.targets")
    in_full = matching(model, config.also_train, "lora.also_train") if config.also_train else {}
    layers = [
        name
        for name, module in model.policy.named_modules()
        if isinstance(module, nn.Linear)
        and (weight := f"policy.{name}.weight") in targets
        and weight not in in_full
        and module.weight.requires_grad
    ]
    if not layers:
        raise ValueError(
            f"lora.targets {list(config.targets)} name no linear layer that is not frozen or trained in full"
        )
    stay = [parameter for parameter in in_full.values() if parameter.requires_grad]
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=layers, bias="none"
        ),
        model.policy,
        adapter_name=ADAPTER,
    )
    for parameter in stay:  # peft has frozen all that is no adapter
        parameter.requires_grad_(True)


@torch.no_grad()
def merged(model: VisuomotorPolicy) -> VisuomotorPolicy:
    """The policy without adapters, their updates added to the weights; for saving.

    Merged weights lie on the CPU, so that saving takes no room on a full GPU; all other tensors are the model's own.
    """
    return _without_adapters(model)


def _without_adapters(module: Any) -> Any:
    """A copy of a module tree that shares its tensors, save those of layers with adapters."""
    from peft.tuners.lora import Linear

    if isinstance(module, Linear):
        base: Any = module.get_base_layer()
        weight = (base.weight + module.get_delta_weight(ADAPTER)).cpu()
        plain = copy.copy(base)
        plain.__dict__["_parameters"] = {**base._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
        return plain
    plain = copy.copy(module)
    plain.__dict__["_modules"] = {
        name: None if child is None else _without_adapters(child) for name, child in module._modules.items()
    }
    return plain
