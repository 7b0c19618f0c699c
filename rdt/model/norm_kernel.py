"""`unbiased_norm` on a GPU in one launch: a denoising step has 160 norms, and PyTorch's operations take four for each.

For inference; training goes through `layers.py`, and under `torch.compile` the formula is fused anyway. Triton comes
with PyTorch's CUDA builds; it is imported here alone, when the first norm runs on a GPU. Without it the caller stays
with PyTorch's operations.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from jaxtyping import Float
from torch import Tensor

NUMBERS_OF_PROGRAM = 2048
"""Heads are short rows: so many of their numbers share a program."""


@triton.jit
def _kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    outer_stride,
    inner_stride,
    num_rows,
    num_inner,
    size,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    there = (row < num_rows) & (column < size)
    x_row = x_ptr + (row // num_inner) * outer_stride + (row % num_inner) * inner_stride
    x = tl.load(x_row + column, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1, keep_dims=True) / size
    centred = tl.where(there, x - mean, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / (size - 1) + eps)
    weight = tl.load(weight_ptr + column, mask=column < size, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * size + column, (x * rstd * weight).to(y_ptr.dtype.element_ty), mask=there)


def unbiased_norm_kernel(
    x: Float[Tensor, "*batch size"], weight: Float[Tensor, " size"], eps: float
) -> Float[Tensor, "*batch size"]:
    """`x / sqrt(var(x) + eps) * weight` over the last axis, in float32 inside; no gradient."""
    size = x.shape[-1]
    rows = x.reshape(-1, x.shape[-2] if x.ndim > 1 else 1, size)  # a view of tokens, and of the heads in a fused qkv
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    outer, inner, _ = rows.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(size)
    rows_of_program = max(1, NUMBERS_OF_PROGRAM // block)
    _kernel[(triton.cdiv(outer * inner, rows_of_program),)](
        rows,
        weight.contiguous(),
        y,
        rows.stride(0),
        rows.stride(1),
        outer * inner,
        inner,
        size,
        eps,
        ROWS=rows_of_program,
        BLOCK=block,
        num_warps=max(4, min(8, block // 256)),
    )
    return y
