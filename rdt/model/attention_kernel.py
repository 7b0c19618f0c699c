"""Attention of few queries on a GPU, norms of queries and keys included: what a denoising step does 56 times.

A chunk is 67 tokens that read themselves, a sentence, or 4374 tokens of pictures. PyTorch's kernels are made for as
many queries as keys: with one processor for each head and 64 queries, half of an H100 stands idle while the others go
through all pictures, and a mask costs three kernels more. Here the keys of a head are split (flash-decoding, Dao et al.
2023): every part keeps its own softmax, and with the parts' maxima m_i, sums l_i and unnormalised outputs o_i

    m = max_i m_i,    out = sum_i 2^(m_i - m) o_i / sum_i 2^(m_i - m) l_i,    scores in powers of two.

For inference, like the norm's kernel; Triton comes with PyTorch's CUDA builds.
"""

from __future__ import annotations

import math

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from jaxtyping import Bool, Float
from torch import Tensor

BLOCK_QUERIES, BLOCK_KEYS = 64, 64
MORE_QUERIES = 16
"""A last tile of at most so many queries goes along with the one before it: 67 are 64 and 3."""

PROGRAMS = 256
"""About so many programs are launched, two for each processor of an H100."""


@triton.jit
def _normed(x, weight, DIM: tl.constexpr, EPS: tl.constexpr):
    """`unbiased_norm_formula` of float32 rows; one of zeros stays zero."""
    centred = x - tl.sum(x, axis=1, keep_dims=True) / DIM
    return x * tl.rsqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / (DIM - 1) + EPS) * weight


@triton.jit
def _read(base, row_stride, row, there, weight_ptr, NORM: tl.constexpr, DIM: tl.constexpr, EPS: tl.constexpr):
    """Rows of queries, keys or values, normalised where that is asked for."""
    dim = tl.arange(0, DIM)[None, :]
    x = tl.load(base + row[:, None].to(tl.int64) * row_stride + dim, mask=there[:, None], other=0.0)
    if NORM:
        x = _normed(x.to(tl.float32), tl.load(weight_ptr + dim).to(tl.float32), DIM, EPS).to(base.dtype.element_ty)
    return x


@triton.jit
def _add(q, k, v, there, scale, largest, total, out):
    """One block of keys more in a softmax that is under way."""
    score = tl.where(there[None, :], tl.dot(q, tl.trans(k)) * scale, float("-inf"))
    largest_now = tl.maximum(largest, tl.max(score, axis=1))
    known = tl.where(largest_now == float("-inf"), 0.0, largest_now)  # all keys so far are masked
    weight = tl.exp2(score - known[:, None])
    shrink = tl.exp2(largest - known)
    total = total * shrink + tl.sum(weight, axis=1)
    out = out * shrink[:, None] + tl.dot(weight.to(v.dtype), v)
    return largest_now, total, out


@triton.jit
def _keep(
    out_ptr,
    max_ptr,
    sum_ptr,
    out,
    largest,
    total,
    head,
    heads,
    part,
    row,
    queries,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The result as (batch, query, head, dim), or a part's as (batch * head, part, query, dim)."""
    there, dim = row < queries, tl.arange(0, DIM)[None, :]
    if PARTS == 1:
        at = ((head // heads).to(tl.int64) * queries + row) * heads + head % heads
        out = (out / total[:, None]).to(out_ptr.dtype.element_ty)
    else:
        at = (head.to(tl.int64) * PARTS + part) * queries + row
        tl.store(max_ptr + at, largest, mask=there)
        tl.store(sum_ptr + at, total, mask=there)
    tl.store(out_ptr + at[:, None] * DIM + dim, out, mask=there[:, None])


@triton.jit
def _attend(
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    q_weight_ptr,
    k_weight_ptr,
    out_ptr,
    max_ptr,
    sum_ptr,
    q_batch,
    q_row,
    q_head,
    k_batch,
    k_row,
    k_head,
    v_batch,
    v_row,
    v_head,
    mask_batch,
    heads,
    queries,
    keys,
    scale,  # log2(e) / sqrt(dim)
    EPS: tl.constexpr,
    NORM_K: tl.constexpr,
    MASKED: tl.constexpr,
    MORE: tl.constexpr,  # queries beyond the last tile, or 0
    PARTS: tl.constexpr,
    BLOCKS: tl.constexpr,  # of keys in a part
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tile, part, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    batch, head_of = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    q_base = q_ptr + batch * q_batch + head_of * q_head
    k_base = k_ptr + batch * k_batch + head_of * k_head
    v_base = v_ptr + batch * v_batch + head_of * v_head
    row = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    q = _read(q_base, q_row, row, row < queries, q_weight_ptr, True, DIM, EPS)
    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    out = tl.zeros((BLOCK_Q, DIM), tl.float32)
    if MORE > 0:
        row_more = tl.num_programs(0) * BLOCK_Q + tl.arange(0, MORE)
        q_more = _read(q_base, q_row, row_more, row_more < queries, q_weight_ptr, True, DIM, EPS)
        largest_more = tl.full((MORE,), float("-inf"), tl.float32)
        total_more = tl.zeros((MORE,), tl.float32)
        out_more = tl.zeros((MORE, DIM), tl.float32)
    for block in range(BLOCKS):
        key = (part * BLOCKS + block) * BLOCK_K + tl.arange(0, BLOCK_K)
        there = key < keys
        k = _read(k_base, k_row, key, there, k_weight_ptr, NORM_K, DIM, EPS)
        v = _read(v_base, v_row, key, there, k_weight_ptr, False, DIM, EPS)
        if MASKED:
            there = there & (tl.load(mask_ptr + batch * mask_batch + key, mask=there, other=0) != 0)
        largest, total, out = _add(q, k, v, there, scale, largest, total, out)
        if MORE > 0:
            largest_more, total_more, out_more = _add(q_more, k, v, there, scale, largest_more, total_more, out_more)
    _keep(out_ptr, max_ptr, sum_ptr, out, largest, total, head, heads, part, row, queries, DIM, PARTS)
    if MORE > 0:  # noqa: SIM102
        if tile == tl.num_programs(0) - 1:  # nested: the outer one is decided while compiling
            _keep(
                out_ptr,
                max_ptr,
                sum_ptr,
                out_more,
                largest_more,
                total_more,
                head,
                heads,
                part,
                row_more,
                queries,
                DIM,
                PARTS,
            )


@triton.jit
def _join(
    parts_ptr,
    max_ptr,
    sum_ptr,
    out_ptr,
    queries,
    heads,
    PARTS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One query of one head."""
    query, head = tl.program_id(0), tl.program_id(1)
    part, dim = tl.arange(0, BLOCK), tl.arange(0, DIM)
    at, there = (head.to(tl.int64) * PARTS + part) * queries + query, part < PARTS
    largest = tl.load(max_ptr + at, mask=there, other=float("-inf"))
    weight = tl.exp2(largest - tl.max(largest, axis=0))
    total = tl.sum(weight * tl.load(sum_ptr + at, mask=there, other=0.0), axis=0)
    out = tl.load(parts_ptr + at[:, None] * DIM + dim[None, :], mask=there[:, None], other=0.0)
    to = ((head // heads).to(tl.int64) * queries + query) * heads + head % heads
    joined = tl.sum(out * weight[:, None], axis=0) / total
    tl.store(out_ptr + to * DIM + dim, joined.to(out_ptr.dtype.element_ty))


def fits(q: Tensor, k: Tensor) -> bool:
    """Whether the kernel is for such queries and keys (batch, token, head, head_dim), and for so few of them."""
    batch, queries, heads, dim = q.shape
    half = q.dtype in (torch.float16, torch.bfloat16) and k.dtype == q.dtype
    few = batch * heads * max(1, queries // BLOCK_QUERIES) <= PROGRAMS
    return half and few and dim in (16, 32, 64, 128) and q.stride(-1) == k.stride(-1) == 1


# an operator of its own: torch.compile calls it as it stands
@torch.library.custom_op(
    "rdt::normed_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor q_weight, Tensor? k_weight, Tensor? mask, float eps, "
    "int? parts=None) -> Tensor",
)
def normed_attention_kernel(
    q: Float[Tensor, "batch query head head_dim"],
    k: Float[Tensor, "batch source head head_dim"],
    v: Float[Tensor, "batch source head head_dim"],
    q_weight: Float[Tensor, " head_dim"],
    k_weight: Float[Tensor, " head_dim"] | None,
    mask: Bool[Tensor, "batch 1 1 source"] | None,
    eps: float,
    parts: int | None = None,
) -> Float[Tensor, "batch query head head_dim"]:
    """`softmax(norm(q) norm(k)' / sqrt(head_dim)) v`; without `k_weight` the keys are normalised already.

    A mask is True where a key counts, and leaves every query one. `parts`: how often the keys of a head are split, None
    for as often as fills the GPU.
    """
    batch, queries, heads, dim = q.shape
    keys = k.shape[1]
    tiles, rest = divmod(queries, BLOCK_QUERIES)
    more = MORE_QUERIES if tiles and 0 < rest <= MORE_QUERIES else 0
    tiles += 1 if rest and not more else 0
    blocks = triton.cdiv(keys, BLOCK_KEYS)
    if parts is None:
        parts = PROGRAMS // (batch * heads * tiles) if blocks > 4 else 1  # to join a few is not worth a kernel
    blocks_of_part = triton.cdiv(blocks, max(1, min(parts, blocks)))
    parts = triton.cdiv(blocks, blocks_of_part)
    out = torch.empty(batch, queries, heads, dim, dtype=q.dtype, device=q.device)
    if parts == 1:
        found = largest = total = out
    else:
        found = torch.empty(batch * heads, parts, queries, dim, dtype=torch.float32, device=q.device)
        largest, total = torch.empty(2, batch * heads, parts, queries, dtype=torch.float32, device=q.device).unbind()
    _attend[(tiles, parts, batch * heads)](
        q,
        k,
        v,
        q if mask is None else mask,
        q_weight,
        q_weight if k_weight is None else k_weight,
        found,
        largest,
        total,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        0 if mask is None else mask.stride(0),
        heads,
        queries,
        keys,
        math.log2(math.e) / math.sqrt(dim),
        EPS=eps,
        NORM_K=k_weight is not None,
        MASKED=mask is not None,
        MORE=more,
        PARTS=parts,
        BLOCKS=blocks_of_part,
        DIM=dim,
        BLOCK_Q=BLOCK_QUERIES,
        BLOCK_K=BLOCK_KEYS,
        num_warps=4,
        num_stages=3,
    )
    if parts > 1:
        _join[(queries, batch * heads)](
            found,
            largest,
            total,
            out,
            queries,
            heads,
            PARTS=parts,
            DIM=dim,
            BLOCK=triton.next_power_of_2(parts),
            num_warps=1,
        )
    return out


@normed_attention_kernel.register_fake
def _(q, k, v, q_weight, k_weight, mask, eps, parts=None):
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)
