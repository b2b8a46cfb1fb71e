"""Triton kernel for an encoder's attention: packed sequences of any lengths, in one launch.

FlashAttention (Dao et al. 2022) over tiles, with T5's bias or without. The tensor cores
want powers of two; a head size that is the sum of two (80 = 64 + 16) is taken apart,
because padding it to 128 would waste a third of the work.

A launch is a grid of programs (block, head, sequence): 64 queries of one sequence and
head, which read all the sequence's keys, one tile after the other.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from antiphon.kernels.online_softmax import softmax_step

BiasTiles = Callable[[int, int], tuple[torch.Tensor, int]]
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _full_kernel(
    q, k, v, out, cu_seqlens, bias, scale, reach,
    Q_TOKEN: tl.constexpr, Q_HEAD: tl.constexpr, K_TOKEN: tl.constexpr, K_HEAD: tl.constexpr,
    V_TOKEN: tl.constexpr, V_HEAD: tl.constexpr, OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """A head is read as D0 columns, of which HEAD_DIM - D1 are real, then D1 columns.

    GROUP heads of queries share their keys and values.
    """
    block, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - first
    if block * BLOCK_M >= length:
        return
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    is_row = rows < length
    d0 = tl.arange(0, D0)
    in0 = d0 < HEAD_DIM
    tokens = (first + rows).to(tl.int64)
    q_rows = q + (tokens * Q_TOKEN + head * Q_HEAD)[:, None]
    q0 = tl.load(q_rows + d0[None, :], mask=is_row[:, None] & in0[None, :], other=0.0)
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        q1 = tl.load(q_rows + d1[None, :], mask=is_row[:, None], other=0.0)
        acc1 = tl.zeros([BLOCK_M, D1], tl.float32)
    acc0 = tl.zeros([BLOCK_M, D0], tl.float32)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    factor = scale * LOG2_E
    table = (
        bias
        + (head * BLOCK_M + tl.arange(0, BLOCK_M))[:, None] * (2 * reach + BLOCK_N)
        + columns[None, :]
    )
    k_rows = k + first.to(tl.int64) * K_TOKEN + head // GROUP * K_HEAD
    v_rows = v + first.to(tl.int64) * V_TOKEN + head // GROUP * V_HEAD
    for start in range(0, length, BLOCK_N):
        keys = start + columns
        is_key = keys < length
        k0 = tl.load(
            k_rows + keys[None, :] * K_TOKEN + d0[:, None],
            mask=is_key[None, :] & in0[:, None],
            other=0.0,
        )
        scores = tl.dot(q0, k0, input_precision="ieee")
        if D1 > 0:
            k1 = tl.load(
                k_rows + keys[None, :] * K_TOKEN + d1[:, None], mask=is_key[None, :], other=0.0
            )
            scores = tl.dot(q1, k1, scores, input_precision="ieee")
        if BIAS:
            column = tl.minimum(tl.maximum(start - block * BLOCK_M, -reach), reach) + reach
            tile = tl.load(table + tl.multiple_of(column, 32)).to(tl.float32)
            scores = scores * factor + tile * LOG2_E
        else:
            scores = scores * factor
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights, shrink, highest, total = softmax_step(scores, highest, total)
        weights = weights.to(v.dtype.element_ty)
        v0 = tl.load(
            v_rows + keys[:, None] * V_TOKEN + d0[None, :],
            mask=is_key[:, None] & in0[None, :],
            other=0.0,
        )
        acc0 = tl.dot(weights, v0, acc0 * shrink[:, None], input_precision="ieee")
        if D1 > 0:
            v1 = tl.load(
                v_rows + keys[:, None] * V_TOKEN + d1[None, :], mask=is_key[:, None], other=0.0
            )
            acc1 = tl.dot(weights, v1, acc1 * shrink[:, None], input_precision="ieee")
    inverse = (1.0 / total)[:, None]
    out_rows = out + (tokens * OUT_TOKEN + head * OUT_HEAD)[:, None]
    tl.store(
        out_rows + d0[None, :],
        (acc0 * inverse).to(out.dtype.element_ty),
        mask=is_row[:, None] & in0[None, :],
    )
    if D1 > 0:
        tl.store(
            out_rows + d1[None, :], (acc1 * inverse).to(out.dtype.element_ty), mask=is_row[:, None]
        )


def head_parts(head_dim: int) -> tuple[int, int]:
    """A head size as a power of two and a smaller one, or padded to one power of two and 0.

    All are at least 16, the tensor cores' least. Only an exact sum is taken apart: with
    a masked rest (72 = 64 + 8 of 16), Triton 3.6 compiles wrong code on Hopper.
    """
    whole = 1 << (head_dim.bit_length() - 1)
    rest = head_dim - whole
    if rest >= 16 and rest == triton.next_power_of_2(rest):
        return whole, rest
    return max(16, triton.next_power_of_2(head_dim)), 0


def full_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_len: int,
    scale: float,
    bias_tiles: BiasTiles | None = None,
) -> torch.Tensor:
    """[tokens, heads, head_dim] for packed `q` of that shape.

    `k`, `v` [tokens, kv_heads, head_dim], each head read by equally many of `q`. Tokens
    and heads may have any strides. `cu_seqlens` [sequences + 1] int32; `max_len` is at
    least the longest length. `bias_tiles(queries, keys)` gives the additive bias of a
    tile of that size at any distance, [heads, queries, 2 * reach + keys], and `reach`:
    the tile whose first key is s positions behind its first query begins at column
    `reach + s`, with s clamped to +-reach.
    """
    tokens, heads, head_dim = q.shape
    out = torch.empty((tokens, heads, head_dim), dtype=q.dtype, device=q.device)
    whole, rest = head_parts(head_dim)
    block_m, block_n, warps, stages = _tiles(q.dtype, bias_tiles is not None)
    tiles, reach = (cu_seqlens, 0) if bias_tiles is None else bias_tiles(block_m, block_n)
    grid = (triton.cdiv(max_len, block_m), heads, len(cu_seqlens) - 1)
    _full_kernel[grid](
        q, k, v, out, cu_seqlens, tiles, scale, reach,
        Q_TOKEN=q.stride(0), Q_HEAD=q.stride(1), K_TOKEN=k.stride(0), K_HEAD=k.stride(1),
        V_TOKEN=v.stride(0), V_HEAD=v.stride(1), OUT_TOKEN=out.stride(0), OUT_HEAD=out.stride(1),
        GROUP=heads // k.shape[1], HEAD_DIM=head_dim, D0=whole, D1=rest,
        BLOCK_M=block_m, BLOCK_N=block_n, BIAS=bias_tiles is not None,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _tiles(dtype: torch.dtype, bias: bool) -> tuple[int, int, int, int]:
    """Queries and keys of a tile, warps, stages; measured on an H200."""
    if dtype == torch.float32:
        return 32, 32, 4, 2
    return 64, 64, 4, 2 if bias else 3
