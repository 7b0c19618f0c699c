"""The parts of the RDT network: norm, attention, block, scalar embedder, adaptor (spec rdt.md sections 1, 3).

Notable choices, all of them the published ones:
- the norm divides by the standard deviation but does not centre (see `unbiased_norm`);
- queries and keys are normalised per head before attention;
- a block attends to one condition, language or image, whose keys and values may be computed beforehand;
- the hidden size of the MLP is the model's, not four times it; every linear layer has a bias; no dropout.

Attribute names are those of the released state dict.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

NormKind = Literal["unbiased", "mean_square"]
NORM_EPS = 1e-6
SCALAR_FEATURES = 256  # sinusoid features of a timestep or of a control frequency


class KeyValue(NamedTuple):
    """Keys (normalised) and values of one condition for one block, the same at all denoising steps."""

    key: Float[Tensor, "batch head token head_dim"]
    value: Float[Tensor, "batch head token head_dim"]


def unbiased_norm_formula(
    x: Float[Tensor, "*batch size"], weight: Float[Tensor, " size"]
) -> Float[Tensor, "*batch size"]:
    """`x / sqrt(var(x) + eps) * weight`; var subtracts the mean and divides by size - 1, x is not centred.

    This is the "RMSNorm" of timm 1.0.3 with which RDT was trained, not a root mean square (spec section 1).
    """
    y = x * torch.rsqrt(x.var(dim=-1, keepdim=True) + NORM_EPS) * weight
    return y.to(x.dtype)  # autocast has roots in float32


def _norm_by_layer_norm(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`unbiased_norm_formula` from PyTorch's layer norm, which makes one pass over x instead of four.

    With n = size, k = sqrt((n - 1) / n), mean m and rstd = 1 / sqrt(biased var + eps (n - 1) / n):

        1 / sqrt(var + eps) = k rstd,    y = k weight (layer_norm(x) + m rstd)
    """
    n = x.shape[-1]
    scale = weight * math.sqrt((n - 1) / n)
    y, mean, rstd = torch.native_layer_norm(x, (n,), scale, None, NORM_EPS * (n - 1) / n)
    return y.addcmul_(mean * rstd, scale), mean, rstd


class _UnbiasedNorm(torch.autograd.Function):
    """The norm with its gradient: layer norm's own, and for the second term, with s = sum(dy k weight),

    dx = s rstd / n (1 - m rstd^2 (x - m)),    dweight = k sum(dy m rstd)
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast(
            x.device.type, enabled=False
        ):  # which would have layer norm in float32, four times the bytes
            y, mean, rstd = _norm_by_layer_norm(x, weight)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return torch.func.vjp(unbiased_norm_formula, x, weight)[1](dy)
        n = x.shape[-1]
        k = math.sqrt((n - 1) / n)
        scale, shift = weight * k, mean * rstd
        dx, dscale, _ = torch.ops.aten.native_layer_norm_backward(
            dy, x, (n,), mean, rstd, scale, None, (True, ctx.needs_input_grad[1], False)
        )
        s = (dy @ scale)[..., None] * rstd / n
        slope = s * shift * rstd
        dx = dx.add_(s + slope * mean).addcmul_(x, slope, value=-1)
        if dscale is None:  # guided sampling asks for the actions' gradient alone
            return dx, None
        dscale = dscale + shift.flatten().to(dy.dtype) @ dy.flatten(0, -2)  # statistics may be float32
        return dx, dscale * k


def unbiased_norm(x: Float[Tensor, "*batch size"], weight: Float[Tensor, " size"]) -> Float[Tensor, "*batch size"]:
    """The numbers of `unbiased_norm_formula`, several times faster."""
    if torch.compiler.is_compiling():  # it fuses the formula, and its gradient
        return unbiased_norm_formula(x, weight)
    if torch.is_grad_enabled():
        return _UnbiasedNorm.apply(x, weight)
    if x.is_cuda and (kernel := _norm_kernel()) is not None:
        return kernel(x, weight, NORM_EPS)
    return _norm_by_layer_norm(x, weight)[0]


@functools.cache
def _norm_kernel() -> Callable[[Tensor, Tensor, float], Tensor] | None:
    try:
        from rdt.model.norm_kernel import unbiased_norm_kernel
    except ImportError:  # a build of PyTorch without Triton
        return None
    return unbiased_norm_kernel


class Norm(nn.Module):
    """`unbiased` (published) or `mean_square` (a true RMS norm, for checkpoints trained with one)."""

    def __init__(self, size: int, kind: NormKind) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        if self.kind == "unbiased":
            return unbiased_norm(x, self.weight.to(x.dtype))  # under autocast x may be narrower
        return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPS)


try:  # its kernel where it is installed; it has no wheel, so no extra of this package names it
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None


def attention(
    q: Float[Tensor, "batch token head head_dim"],
    k: Float[Tensor, "batch source head head_dim"],
    v: Float[Tensor, "batch source head head_dim"],
    mask: Bool[Tensor, "batch 1 1 source"] | None = None,
) -> Float[Tensor, "batch token head head_dim"]:
    """`softmax(q k' / sqrt(head_dim)) v`: flash-attn for half precision on CUDA without a mask, else PyTorch's."""
    if flash_attn_func is not None and mask is None and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        return flash_attn_func(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def normed_attention(
    q: Float[Tensor, "batch token head head_dim"],
    k: Float[Tensor, "batch source head head_dim"],
    v: Float[Tensor, "batch source head head_dim"],
    q_norm: Norm,
    k_norm: Norm | None,
    mask: Bool[Tensor, "batch 1 1 source"] | None = None,
) -> Float[Tensor, "batch token head head_dim"]:
    """`attention` of normalised queries and keys; without `k_norm` the keys are so already.

    Few queries in half precision on a GPU have a kernel of their own, norms included.
    """
    kernel = _attention_kernel() if q.is_cuda and q_norm.kind == "unbiased" and not torch.is_grad_enabled() else None
    if kernel is not None and kernel.fits(q, k):
        weights = (norm and norm.weight.to(q.dtype) for norm in (q_norm, k_norm))
        return kernel.normed_attention_kernel(q, k, v, *weights, mask, NORM_EPS)
    return attention(q_norm(q), k_norm(k) if k_norm else k, v, mask)


@functools.cache
def _attention_kernel() -> ModuleType | None:
    try:
        from rdt.model import attention_kernel
    except ImportError:  # a build of PyTorch without Triton
        return None
    return attention_kernel


class SelfAttention(nn.Module):
    """Attention among all tokens: no mask, no causality, no rotary positions."""

    def __init__(self, hidden_size: int, num_heads: int, norm: NormKind) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = Norm(hidden_size // num_heads, norm)
        self.k_norm = Norm(hidden_size // num_heads, norm)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Float[Tensor, "batch token hidden"]) -> Float[Tensor, "batch token hidden"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # each (B, T, heads, head_dim)
        out = normed_attention(q, k, v, self.q_norm, self.k_norm)  # (B, T, heads, head_dim)
        return self.proj(out.flatten(2))


class CrossAttention(nn.Module):
    """Attention of all tokens to a condition, given as tokens or as their `KeyValue`."""

    def __init__(self, hidden_size: int, num_heads: int, norm: NormKind) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(hidden_size, hidden_size)
        self.kv = nn.Linear(hidden_size, 2 * hidden_size)
        self.q_norm = Norm(hidden_size // num_heads, norm)
        self.k_norm = Norm(hidden_size // num_heads, norm)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def key_value(self, condition: Float[Tensor, "batch token hidden"]) -> KeyValue:
        k, v = self.kv(condition).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # each (B, S, heads, head_dim)
        return KeyValue(self.k_norm(k).transpose(1, 2), v.transpose(1, 2))

    def forward(
        self,
        x: Float[Tensor, "batch token hidden"],
        condition: Float[Tensor, "batch source hidden"] | KeyValue,
        mask: Bool[Tensor, "batch 1 1 source"] | None,
    ) -> Float[Tensor, "batch token hidden"]:
        k, v = condition if isinstance(condition, KeyValue) else self.key_value(condition)
        q = self.q(x).unflatten(-1, (self.num_heads, -1))  # (B, T, heads, head_dim)
        out = normed_attention(q, k.transpose(1, 2), v.transpose(1, 2), self.q_norm, None, mask)
        return self.proj(out.flatten(2))


class MLP(nn.Module):
    def __init__(self, hidden_size: int, out_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, hidden_size)
        self.fc2 = nn.Linear(hidden_size, out_size)

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch out"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Three residual branches: among the tokens, to the condition, within each token."""

    def __init__(self, hidden_size: int, num_heads: int, norm: NormKind) -> None:
        super().__init__()
        self.norm1 = Norm(hidden_size, norm)
        self.attn = SelfAttention(hidden_size, num_heads, norm)
        self.norm2 = Norm(hidden_size, norm)
        self.cross_attn = CrossAttention(hidden_size, num_heads, norm)
        self.norm3 = Norm(hidden_size, norm)
        self.ffn = MLP(hidden_size, hidden_size)

    def forward(
        self,
        x: Float[Tensor, "batch token hidden"],
        condition: Float[Tensor, "batch source hidden"] | KeyValue,
        mask: Bool[Tensor, "batch 1 1 source"] | None,
    ) -> Float[Tensor, "batch token hidden"]:
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), condition, mask)
        return x + self.ffn(self.norm3(x))


class FinalLayer(nn.Module):
    """From hidden tokens to actions."""

    def __init__(self, hidden_size: int, action_dim: int, norm: NormKind) -> None:
        super().__init__()
        self.norm_final = Norm(hidden_size, norm)
        self.ffn_final = MLP(hidden_size, action_dim)

    def forward(self, x: Float[Tensor, "batch token hidden"]) -> Float[Tensor, "batch token slot"]:
        return self.ffn_final(self.norm_final(x))


class ScalarEmbedder(nn.Module):
    """A token from one number: a diffusion timestep, or a control frequency in Hz (12.5 is as good as 25)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(SCALAR_FEATURES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, scalar: Num[Tensor, " batch"]) -> Float[Tensor, "batch hidden"]:
        """Features `[cos(s f), sin(s f)]` with `f_i = 10000^(-i / 128)`, in float32 for all weights."""
        half = SCALAR_FEATURES // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=scalar.device) / half)
        angle = scalar.float()[:, None] * frequency
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)  # (B, 256)
        return self.mlp(features.to(self.mlp[0].weight.dtype))


def make_adaptor(kind: str, in_features: int, hidden_size: int) -> nn.Module:
    """`linear`, or `mlpKx_gelu`: K linear layers with GELU (tanh approximation) between them."""
    if kind == "linear":
        return nn.Linear(in_features, hidden_size)
    match = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if match is None:
        raise ValueError(f"unknown adaptor {kind!r}: write 'linear' or 'mlpKx_gelu', for instance 'mlp2x_gelu'")
    layers: list[nn.Module] = [nn.Linear(in_features, hidden_size)]
    for _ in range(int(match[1]) - 1):
        layers += [nn.GELU(approximate="tanh"), nn.Linear(hidden_size, hidden_size)]
    return nn.Sequential(*layers)
