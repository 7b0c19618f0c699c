"""pytest tests/rdt/model/test_cost.py"""

import pytest
import torch

from rdt.model.cost import inference_cost
from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS


@pytest.mark.parametrize(
    ("preset", "naive", "project", "step", "adaptor", "step_bytes", "image_key_values"),
    [
        ("rdt_1b", 1.197e12, 1.035e12, 0.1625e12, 0.057e12, 1.925e9, 502e6),
        ("rdt_170m", 0.154e12, 0.129e12, 0.025e12, 0.019e12, 0.247e9, 125e6),
    ],
)
def test_the_table_of_the_spec(preset, naive, project, step, adaptor, step_bytes, image_key_values):
    """Spec rdt.md section 17: 32 language tokens, bfloat16."""
    cost = inference_cost(PRESETS[preset], 32)
    assert cost.naive_step_flops == pytest.approx(naive, rel=0.01)
    assert cost.project_flops == pytest.approx(project, rel=0.01)
    assert cost.step_flops == pytest.approx(step, rel=0.02)
    assert inference_cost(PRESETS[preset], 0).adaptor_flops == pytest.approx(adaptor, rel=0.03)
    assert 2 * cost.step_params == pytest.approx(step_bytes, rel=0.02)
    assert 2 * inference_cost(PRESETS[preset], 0).key_value_numbers == pytest.approx(image_key_values, rel=0.01)


@pytest.mark.parametrize("preset", ["rdt_1b", "rdt_170m", "rdt_tiny"])
def test_weights_are_those_of_the_network(preset):
    config = PRESETS[preset]
    cost = inference_cost(config, config.max_lang_cond_len)
    with torch.device("meta"):
        policy = RDTPolicy(config)
    matrices = {name: p.numel() for name, p in policy.named_parameters() if p.ndim == 2}
    frequency = sum(n for name, n in matrices.items() if "freq_embedder" in name)
    assert cost.project_params + cost.step_params == sum(matrices.values()) - frequency


def test_flops_are_those_that_pytorch_counts():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = PRESETS["rdt_tiny"]
    policy = RDTPolicy(config).eval()
    condition = {
        "lang_tokens": torch.zeros(1, 16, 64),
        "lang_attn_mask": None,
        "img_tokens": torch.zeros(1, 4, 64),
        "state_tokens": torch.zeros(1, 1, 128),
        "action_mask": torch.ones(1, 1, 128),
        "ctrl_freqs": torch.zeros(1),
    }
    cost = inference_cost(config, 16)
    # attention as plain products: not every PyTorch counts its fused kernel on a CPU
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        policy.forward(torch.zeros(1, 16, 128), torch.zeros(1, dtype=torch.long), **condition)
    assert counted.get_total_flops() == pytest.approx(cost.adaptor_flops + cost.naive_step_flops, rel=0.02)
