"""pytest tests/rdt/model/test_attention_kernel.py; on a CPU, Triton's interpreter runs the kernel."""

import pytest
import torch

from rdt.model.layers import NORM_EPS, CrossAttention, SelfAttention, attention, unbiased_norm_formula
from tests.rdt.model.interpreted import interpreted_error

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

SHAPES = [  # batch, queries, keys, heads, head_dim
    (1, 67, 300, 1, 64),  # a tile and three queries more
    (2, 5, 64, 3, 16),
    (1, 130, 129, 1, 32),  # two tiles and two
    (1, 81, 70, 1, 16),  # too many more for the tile before
    (1, 1, 1, 1, 64),
]


def largest_error(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Against PyTorch's attention of normed queries and keys, in float32; with and without masks, in several parts."""
    from rdt.model.attention_kernel import normed_attention_kernel

    generator = torch.Generator().manual_seed(0)
    error = 0.0
    for batch, queries, keys, heads, dim in SHAPES:
        q = torch.randn(batch, queries, heads, dim, generator=generator) + 0.3
        k, v = torch.randn(batch, keys, 2, heads, dim, generator=generator).unbind(2)
        weights = torch.randn(2, dim, generator=generator)
        mask = torch.rand(batch, 1, 1, keys, generator=generator) < 0.4
        mask[..., : min(66, keys // 2)] = False  # the first part has no key at all
        mask[..., keys // 2] = True
        q, k, v, weights = (x.to(device, dtype) for x in (q, k, v, weights))
        for k_weight in (weights[1], None):
            normed_k = k.float() if k_weight is None else unbiased_norm_formula(k.float(), k_weight.float())
            normed_q = unbiased_norm_formula(q.float(), weights[0].float())
            for shown in (None, mask.to(device)):
                expected = attention(normed_q, normed_k, v.float(), shown)
                for parts in (None, 2, 100):
                    found = normed_attention_kernel(q, k, v, weights[0], k_weight, shown, NORM_EPS, parts)
                    assert found.shape == expected.shape and found.dtype == dtype
                    error = max(error, float((found.float() - expected).abs().max()))
    return error


def test_the_kernel_interpreted_on_a_cpu():
    assert interpreted_error("tests.rdt.model.test_attention_kernel") < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_the_kernel_on_a_gpu(dtype, tolerance):
    assert largest_error("cuda", dtype) < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_layers_take_it_without_gradients_only(compiled):
    generator = torch.Generator().manual_seed(0)
    x, condition = (torch.randn(1, n, 256, generator=generator).cuda().bfloat16() for n in (67, 500))
    with torch.device("cuda"):
        layers = SelfAttention(256, 4, "unbiased").bfloat16(), CrossAttention(256, 4, "unbiased").bfloat16()
    for layer, args in zip(layers, [(x,), (x, condition, None)], strict=True):
        expected = layer(*args).detach()  # with gradients: PyTorch's kernels
        if compiled:
            layer.compile()
        with torch.no_grad():
            torch.testing.assert_close(layer(*args), expected, atol=0.02, rtol=0.02)
