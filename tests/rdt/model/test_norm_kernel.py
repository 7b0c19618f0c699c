"""pytest tests/rdt/model/test_norm_kernel.py; on a CPU, Triton's interpreter runs the kernel."""

import pytest
import torch

from rdt.model.layers import NORM_EPS, unbiased_norm_formula
from tests.rdt.model.interpreted import interpreted_error

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

SHAPES = [(3, 67, 2048), (2, 5, 4, 32), (7, 100), (33,)]


def largest_error(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Against the formula, over rows, heads, odd sizes, offsets, and the keys inside a fused qkv."""
    from rdt.model.norm_kernel import unbiased_norm_kernel

    generator = torch.Generator().manual_seed(0)
    cases = [3 * torch.randn(shape, generator=generator) + 1 for shape in SHAPES]
    cases.append(torch.randn(2, 5, 3 * 4 * 32, generator=generator).unflatten(-1, (3, 4, 32)).unbind(2)[1])
    cases.append(torch.randn(6, 5, 40, generator=generator).transpose(1, 2))
    errors = []
    for x in cases:
        x, weight = x.to(device, dtype), torch.randn(x.shape[-1], generator=generator).to(device, dtype)
        expected = unbiased_norm_formula(x.float(), weight.float())
        found = unbiased_norm_kernel(x, weight, NORM_EPS)
        assert found.shape == x.shape and found.dtype == dtype
        errors.append(float(((found.float() - expected).abs() / (1 + expected.abs())).max()))
    return max(errors)


def test_the_kernel_interpreted_on_a_cpu():
    assert interpreted_error("tests.rdt.model.test_norm_kernel") < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_kernel_on_a_gpu(dtype, tolerance):
    assert largest_error("cuda", dtype) < tolerance
