"""Triton kernels for an encoder's attention whose products are of float8 numbers.

Queries, keys and values are stored in float8 first, each with a scale for every 64 tokens of a
sequence and head, so that what a sequence gives depends on nothing else in its batch. Weights are
rounded to float8 too, 256 times as large as they are: below 2^-17 of the largest, they vanish. Sums
and the softmax are float32 (as in FlashAttention-3, Shah et al. 2024; scales by blocks are theirs).

Stored tokens lie in slots of 64. A sequence has slots of its own, one behind the other from number
`first token // 64 + number of the sequence` on, which no other sequence reaches: so tiles are
aligned, and their rows need no masks.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import (
    FLOAT8,
    FLOAT8_BLOCK,
    FLOAT8_MAX,
    FLOAT8_WEIGHTS,
    SMALLEST_SCALE,
)
from antiphon.kernels.online_softmax import softmax_step

BLOCK = FLOAT8_BLOCK  # a tile of queries, or of keys
LOG2_E = tl.constexpr(1.4426950408889634)
LARGEST, SMALLEST = tl.constexpr(FLOAT8_MAX), tl.constexpr(SMALLEST_SCALE)
WEIGHTS = tl.constexpr(FLOAT8_WEIGHTS)
LEAST = 32  # features of a product: the tensor cores' least in float8


@triton.jit(do_not_specialize=["slots"])  # else some numbers of tokens would be compiled anew
def _store_kernel(
    x, stored, scales, cu_seqlens, slots, X_TOKEN: tl.constexpr, X_HEAD: tl.constexpr,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, POWER: tl.constexpr, BLOCK: tl.constexpr,
    BY_FEATURE: tl.constexpr,
):  # fmt: skip
    """A program: one block of one head and sequence. Features behind HEAD_DIM become 0, and so do
    tokens behind a sequence. BY_FEATURE: tokens are next to each other, not features."""
    block, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - first
    if block * BLOCK >= length:
        return
    places, d = tl.arange(0, BLOCK), tl.arange(0, POWER)
    rows = block * BLOCK + places
    values = tl.load(
        x + ((first + rows).to(tl.int64) * X_TOKEN + head * X_HEAD)[:, None] + d[None, :],
        mask=(rows < length)[:, None] & (d < HEAD_DIM)[None, :],
        other=0.0,
    ).to(tl.float32)
    scale = tl.maximum(tl.max(tl.max(tl.abs(values), 1), 0) / LARGEST, SMALLEST)
    scaled = tl.minimum(tl.maximum(values / scale, -LARGEST), LARGEST)
    slot = first // BLOCK + sequence + block
    tl.store(scales + head * slots + slot, scale)
    begin = stored + head.to(tl.int64) * slots * BLOCK * DIM
    tokens = slot * BLOCK + places
    if BY_FEATURE:
        into = begin + d[None, :].to(tl.int64) * slots * BLOCK + tokens[:, None]
    else:
        into = begin + tokens[:, None].to(tl.int64) * DIM + d[None, :]
    tl.store(into, scaled.to(stored.dtype.element_ty), mask=(d < DIM)[None, :])


@triton.jit(do_not_specialize=["slots"])  # else some numbers of tokens would be compiled anew
def _float8_kernel(
    q, k, v, q_scales, k_scales, v_scales, out, cu_seqlens, scale, slots,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    D0: tl.constexpr, D1: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program: 64 queries of one sequence and head, which read all of its keys. A head is read as
    D0 columns, then D1. GROUP heads of queries share their keys and values."""
    block, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - first
    if block * BLOCK >= length:
        return
    DIM: tl.constexpr = D0 + D1
    places, d0 = tl.arange(0, BLOCK), tl.arange(0, D0)
    first_slot = first // BLOCK + sequence
    q_slot = head.to(tl.int64) * slots + first_slot + block
    q_rows = q + q_slot * BLOCK * DIM + places[:, None] * DIM
    q0 = tl.load(q_rows + d0[None, :])
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        q1 = tl.load(q_rows + d1[None, :])
        acc1 = tl.zeros([BLOCK, D1], tl.float32)
    acc0 = tl.zeros([BLOCK, D0], tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    factor = tl.load(q_scales + q_slot) * scale * LOG2_E
    kv_slot = (head // GROUP).to(tl.int64) * slots + first_slot
    values = v + (head // GROUP).to(tl.int64) * slots * BLOCK * DIM + first_slot * BLOCK
    for number in range(tl.cdiv(length, BLOCK)):
        k_rows = k + (kv_slot + number) * BLOCK * DIM + places[None, :] * DIM
        scores = tl.dot(q0, tl.load(k_rows + d0[:, None]))
        if D1 > 0:
            scores = tl.dot(q1, tl.load(k_rows + d1[:, None]), scores)
        scores = scores * (factor * tl.load(k_scales + kv_slot + number))
        is_key = number * BLOCK + places < length
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights, shrink, highest, total = softmax_step(scores, highest, total)
        rounded = (weights * WEIGHTS).to(v.dtype.element_ty)
        value_scale = tl.load(v_scales + kv_slot + number) / WEIGHTS
        v_rows = values + number * BLOCK + places[:, None]
        v0 = tl.load(v_rows + d0[None, :].to(tl.int64) * slots * BLOCK)
        acc0 = acc0 * shrink[:, None] + tl.dot(rounded, v0) * value_scale
        if D1 > 0:
            v1 = tl.load(v_rows + d1[None, :].to(tl.int64) * slots * BLOCK)
            acc1 = acc1 * shrink[:, None] + tl.dot(rounded, v1) * value_scale
    inverse = (1.0 / total)[:, None]
    rows = block * BLOCK + places
    out_rows = out + ((first + rows).to(tl.int64) * OUT_TOKEN + head * OUT_HEAD)[:, None]
    is_row = (rows < length)[:, None]
    kept0 = (acc0 * inverse).to(out.dtype.element_ty)
    tl.store(out_rows + d0[None, :], kept0, mask=is_row & (d0 < HEAD_DIM)[None, :])
    if D1 > 0:
        kept1 = (acc1 * inverse).to(out.dtype.element_ty)
        tl.store(out_rows + d1[None, :], kept1, mask=is_row & (d1 < HEAD_DIM)[None, :])


def head_parts(head_dim: int) -> tuple[int, int]:
    """A head size, filled up with zeros, as two powers of two, or as one and 0."""
    power = max(LEAST, triton.next_power_of_2(head_dim))
    whole = power // 2
    rest = max(LEAST, triton.next_power_of_2(head_dim - whole)) if head_dim > whole else 0
    return (whole, rest) if whole >= LEAST and rest and whole + rest < power else (power, 0)


def float8_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_len: int,
    scale: float,
) -> torch.Tensor:
    """As `full_attention.full_attention`, without a bias; products are of float8 numbers."""
    tokens, heads, head_dim = q.shape
    sequences = len(cu_seqlens) - 1
    slots, parts = tokens // BLOCK + sequences, head_parts(head_dim)
    grid = (triton.cdiv(max_len, BLOCK), heads, sequences)
    places = (cu_seqlens, slots, sum(parts), grid)
    q8, q_scales = _stored(q, *places, by_feature=False)
    k8, k_scales = _stored(k, *places, by_feature=False)
    v8, v_scales = _stored(v, *places, by_feature=True)
    out = torch.empty((tokens, heads, head_dim), dtype=q.dtype, device=q.device)
    _float8_kernel[grid](
        q8, k8, v8, q_scales, k_scales, v_scales, out, cu_seqlens, scale, slots,
        OUT_TOKEN=out.stride(0), OUT_HEAD=out.stride(1), GROUP=heads // k.shape[1],
        HEAD_DIM=head_dim, D0=parts[0], D1=parts[1], BLOCK=BLOCK, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


def _stored(
    x: torch.Tensor,
    cu_seqlens: torch.Tensor,
    slots: int,
    dim: int,
    grid: tuple[int, int, int],
    by_feature: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[heads, slots * BLOCK, dim] or, `by_feature`, [heads, dim, slots * BLOCK] float8, and scales
    [heads, slots] float32. Slots that no sequence has are not written."""
    blocks, _, sequences = grid
    heads, head_dim = x.shape[1:]
    stored = torch.empty(heads * slots * BLOCK * dim, dtype=FLOAT8, device=x.device)
    scales = torch.empty(heads, slots, dtype=torch.float32, device=x.device)
    _store_kernel[blocks, heads, sequences](
        x, stored, scales, cu_seqlens, slots, X_TOKEN=x.stride(0), X_HEAD=x.stride(1),
        HEAD_DIM=head_dim, DIM=dim, POWER=triton.next_power_of_2(dim), BLOCK=BLOCK,
        BY_FEATURE=by_feature,
    )  # fmt: skip
    return stored, scales
