"""Weights of eight bits for the transformer's blocks, behind a gate: the actions must stay what they were.

Weight-only, by torchao: a denoising step reads every weight for 67 tokens, so it is bound by their bytes. Whether
it pays depends on the card and on `torch.compile`, which fuses the widening into the product: `rdt bench infer
--quantize int8 --compile` tells. Adaptors, embedders and the final layer keep their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_pipeline.schema.registry import unknown_name
from rdt.model.policy import RDTPolicy

Quantization = Literal["int8", "fp8"]

GATE = 0.02
"""Largest relative error of the actions, root mean square over the live slots, that the gate lets pass."""


@dataclass(frozen=True)
class GateReport:
    """What eight bits do to the actions and to the memory."""

    kind: Quantization
    relative_error: float  # ||quantised - exact|| / ||exact|| over the live slots of all chunks
    largest_error: float  # of any entry, in the network's units
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        return (
            f"{self.kind} weights: actions change by {100 * self.relative_error:.2f} % (largest entry "
            f"{self.largest_error:.4f}), {self.bytes_before / 1e6:.0f} -> {self.bytes_after / 1e6:.0f} MB of weights"
        )


class QualityError(ValueError):
    """Quantised weights that change the actions more than the gate allows."""


@torch.no_grad()  # not inference mode: a guided loop differentiates through these weights
def quantize_weights(
    policy: RDTPolicy,
    kind: Quantization,
    sample: Callable[[], Sequence[Float[Tensor, "batch horizon slot"]]],
    gate: float = GATE,
) -> GateReport:
    """Quantise the blocks of `policy` in place and compare what `sample()` gives before and after.

    Raises `QualityError` past the gate: the policy is then spoiled and must be loaded again.
    """
    before, bytes_before = [actions.float() for actions in sample()], weight_bytes(policy)
    _quantize(policy.model.blocks, kind)
    after = [actions.float() for actions in sample()]
    exact, found = torch.cat([a.flatten() for a in before]), torch.cat([a.flatten() for a in after])
    report = GateReport(
        kind=kind,
        relative_error=float((found - exact).norm() / exact.norm().clamp(min=1e-12)),
        largest_error=float((found - exact).abs().max()),
        bytes_before=bytes_before,
        bytes_after=weight_bytes(policy),
    )
    if not report.relative_error <= gate:  # NaN fails too
        raise QualityError(
            f"{report}; the gate is {100 * gate:g} %: serve this policy without quantisation, or pass a wider gate "
            "if its success in closed loop (`rdt eval`) allows it"
        )
    return report


def weight_bytes(policy: RDTPolicy) -> int:
    """Memory of all parameters, what quantised ones really take."""
    return sum(_bytes(parameter) for parameter in policy.parameters())


def _bytes(tensor: Tensor) -> int:
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]  # torchao keeps values and scales inside
    return sum(_bytes(getattr(tensor, name)) for name in names)


def _quantize(blocks: nn.Module, kind: Quantization) -> None:
    if kind not in get_args(Quantization):
        raise ValueError(unknown_name("quantisation", kind, get_args(Quantization)))
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ModuleNotFoundError(f"quantised weights need torchao ({error}): pip install 'rdt-stack[gpu]'") from None
    configs: dict[str, Any] = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}
    quantize_(blocks, configs[kind]())
