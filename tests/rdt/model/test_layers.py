"""pytest tests/rdt/model/test_layers.py"""

import math

import pytest
import torch
from torch import nn

from rdt.model.layers import (
    CrossAttention,
    KeyValue,
    Norm,
    ScalarEmbedder,
    SelfAttention,
    make_adaptor,
    unbiased_norm,
    unbiased_norm_formula,
)


def random_(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module.double()


def tokens(count, size=16, batch=2):
    return torch.randn(batch, count, size, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def test_unbiased_norm_is_its_formula():
    x, weight = tokens(3), torch.rand(16, dtype=torch.float64)
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / 15
    expected = x / (variance + 1e-6).sqrt() * weight
    torch.testing.assert_close(unbiased_norm_formula(x, weight), expected)
    torch.testing.assert_close(unbiased_norm(x, weight), expected)
    with torch.no_grad():
        torch.testing.assert_close(unbiased_norm(x, weight), expected)


def test_unbiased_norm_of_a_large_mean_and_of_a_constant():
    ones = torch.ones(16, dtype=torch.float64)
    for x in (tokens(3) + 100, torch.full((2, 16), 3.0, dtype=torch.float64)):
        torch.testing.assert_close(unbiased_norm(x, ones), unbiased_norm_formula(x, ones))


def test_unbiased_norm_in_bfloat16():
    x, weight = tokens(3).bfloat16().requires_grad_(), torch.rand(16).bfloat16().requires_grad_()
    y = unbiased_norm(x, weight)
    assert y.dtype == torch.bfloat16
    exact = unbiased_norm_formula(x.double(), weight.double())
    torch.testing.assert_close(y.double(), exact, atol=0.03, rtol=0.03)
    gradients = torch.autograd.grad(y.square().sum(), (x, weight))
    exact_gradients = torch.autograd.grad(exact.square().sum(), (x, weight))
    torch.testing.assert_close(gradients, exact_gradients, atol=0.2, rtol=0.05)


def test_unbiased_norm_does_not_centre():
    x = tokens(3)
    ones = torch.ones(16, dtype=torch.float64)
    shift = unbiased_norm(x + 5, ones) - unbiased_norm(x, ones)
    assert (shift.mean(-1) > 1).all()


def test_unbiased_norm_gradients_of_first_and_second_order():
    x, weight = tokens(3).requires_grad_(), torch.rand(16, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(unbiased_norm, (x, weight))
    assert torch.autograd.gradgradcheck(unbiased_norm, (x, weight))
    assert torch.autograd.gradgradcheck(unbiased_norm, (x, weight.detach()))  # a frozen network


def test_mean_square_is_the_root_mean_square():
    norm, x = random_(Norm(16, "mean_square")), tokens(3)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight)
    assert not torch.allclose(norm(x), unbiased_norm(x, norm.weight), rtol=1e-3)


def test_self_attention_is_its_formula():
    attention, x = random_(SelfAttention(16, 4, "unbiased")), tokens(5)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    out = torch.empty_like(x)
    for head in range(4):
        columns = slice(4 * head, 4 * head + 4)
        scores = attention.q_norm(q[..., columns]) @ attention.k_norm(k[..., columns]).mT / math.sqrt(4)
        out[..., columns] = scores.softmax(-1) @ v[..., columns]
    torch.testing.assert_close(attention(x), attention.proj(out))


def test_cross_attention_is_its_formula():
    attention, x, condition = random_(CrossAttention(16, 4, "unbiased")), tokens(5), tokens(7)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    k, v = attention.kv(condition).chunk(2, dim=-1)
    out = torch.empty_like(x)
    for head in range(4):
        columns = slice(4 * head, 4 * head + 4)
        scores = attention.q_norm(attention.q(x)[..., columns]) @ attention.k_norm(k[..., columns]).mT / math.sqrt(4)
        out[..., columns] = scores.masked_fill(~mask[:, None], -math.inf).softmax(-1) @ v[..., columns]
    torch.testing.assert_close(attention(x, condition, mask[:, None, None]), attention.proj(out))


def test_key_value_stands_for_its_condition():
    attention, x, condition = random_(CrossAttention(16, 4, "unbiased")), tokens(5), tokens(7)
    cached = attention.key_value(condition)
    assert isinstance(cached, KeyValue) and cached.key.shape == (2, 4, 7, 4)
    assert torch.equal(attention(x, cached, None), attention(x, condition, None))


def test_scalar_features_are_cosines_then_sines():
    embedder = ScalarEmbedder(16)
    embedder.mlp = nn.Sequential(nn.Identity())
    embedder.mlp[0].weight = torch.empty(0)
    features = embedder(torch.tensor([0, 3]))
    assert features.shape == (2, 256)
    torch.testing.assert_close(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert features[1, 0].item() == pytest.approx(math.cos(3)) and features[1, 128].item() == pytest.approx(math.sin(3))


def test_scalars_may_be_fractions_and_weights_half():
    embedder = ScalarEmbedder(16).bfloat16()
    out = embedder(torch.tensor([12.5, 12.0]))
    assert out.dtype == torch.bfloat16 and not torch.equal(out[0], out[1])


@pytest.mark.parametrize(
    ("kind", "keys"), [("mlp1x_gelu", ["0"]), ("mlp2x_gelu", ["0", "2"]), ("mlp3x_gelu", ["0", "2", "4"])]
)
def test_adaptor_layers_stand_at_even_indices(kind, keys):
    adaptor = make_adaptor(kind, 6, 16)
    assert sorted({key.split(".")[0] for key in adaptor.state_dict()}) == keys
    assert adaptor(torch.zeros(2, 5, 6)).shape == (2, 5, 16)


def test_linear_adaptor_has_bare_keys():
    assert sorted(make_adaptor("linear", 6, 16).state_dict()) == ["bias", "weight"]


@pytest.mark.parametrize("kind", ["", "mlp", "mlp0x_gelu", "mlp2x_silu", "Linear"])
def test_unknown_adaptor_is_refused(kind):
    with pytest.raises(ValueError, match="unknown adaptor"):
        make_adaptor(kind, 6, 16)


def test_the_norm_of_frozen_weights_has_the_same_gradient():
    x, dy = torch.randn(2, 2, 5, 12, dtype=torch.float64).unbind()
    weight = torch.rand(12, dtype=torch.float64)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(unbiased_norm_formula(x, weight), x, dy)
    (found,) = torch.autograd.grad(unbiased_norm(x, weight), x, dy)
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_the_norm_trains_under_autocast(compiled):
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(5, 64, generator=generator).cuda() for _ in range(2))
    norm = random_(Norm(64, "unbiased")).cuda()
    x.requires_grad_()
    expected = torch.autograd.grad(unbiased_norm_formula(x, norm.weight), (x, norm.weight), dy)
    if compiled:
        norm.compile()
    with torch.autocast("cuda", torch.bfloat16):
        y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16
    for found, exact in zip(torch.autograd.grad(y, (x, norm.weight), dy.bfloat16()), expected, strict=True):
        torch.testing.assert_close(found, exact, atol=0.05, rtol=0.02)
