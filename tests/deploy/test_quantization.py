"""Run: pytest tests/deploy/test_quantization.py"""

import dataclasses

import pytest
import torch

from deploy.engine import InferenceEngine
from deploy.quantization import QualityError, weight_bytes
from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS

pytest.importorskip("torchao", reason="torchao is not installed: pip install 'rdt-stack[gpu]'")


def make_policy() -> RDTPolicy:
    torch.manual_seed(0)
    policy = RDTPolicy(dataclasses.replace(PRESETS["rdt_tiny"], depth=2))
    with torch.no_grad():
        policy.model.final_layer.ffn_final.fc2.weight.normal_(std=0.1)  # 0 at first: it would say nothing
    return policy


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_eight_bits_pass_a_gate_that_is_wide_enough(kind):
    policy = make_policy()
    before = weight_bytes(policy)
    engine = InferenceEngine(policy, quantization=kind, gate=0.2)
    report = engine.gate_report
    assert 0 < report.relative_error < 0.2
    assert (report.bytes_before, report.bytes_after) == (before, weight_bytes(engine.policy))
    blocks = sum(p.numel() for name, p in policy.named_parameters() if "blocks" in name and p.ndim == 2)
    assert before - report.bytes_after > 2.5 * blocks  # four bytes became one, and a scale a row


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_gate_refuses_with_figures(kind):
    with pytest.raises(QualityError, match=rf"{kind} weights: actions change by .* the gate is 0.01 %"):
        InferenceEngine(make_policy(), quantization=kind, gate=1e-4)


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="did you mean 'int8'"):
        InferenceEngine(make_policy(), quantization="int4")
