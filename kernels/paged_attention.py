"""Attention to paged keys and values: its launch, and the Triton kernel for any number of queries.

See `paged_splits.py` for the grid of programs, and `paged_decode.py` for the kernel
that takes sequences of one query in float8 pages. Both are bound by reading keys and
values.

Lengths and page tables are read on the device, so a captured graph stays valid while they change.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.launch import overlapped, to_l2, wait_for_previous
from antiphon.kernels.paged_decode import decode_kernel
from antiphon.kernels.paged_launch import PagedLaunch, Tile
from antiphon.kernels.paged_splits import (
    LOG2_E,
    MINUS_INF,
    Workspace,
    finish,
    key_offsets,
    num_splits,
    padded,
)

BLOCK_M = 16  # rows of one program, each a head of a query; the tensor cores' least


# Strides are constants, sizes of a step are not: see `decode_kernel`.
@triton.jit(do_not_specialize=["num_tokens", "q_blocks"])
def _paged_kernel(
    q, k, v, out, partial, partial_lse, arrivals, cu_seqlens_q, kv_lens, page_table, bias,
    scale, last_distance, num_tokens, q_blocks,
    Q_TOKEN: tl.constexpr, Q_HEAD: tl.constexpr,
    KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr, KV_HEAD: tl.constexpr,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, TABLE_ROW: tl.constexpr,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr,
    CAUSAL: tl.constexpr, BIAS: tl.constexpr, SKIP_DECODES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (kv_head, split, sequence * q_blocks + block) takes one block of a sequence's rows.

    A row is one of the GROUP heads that share the keys, of one query: the heads of the
    first query, then those of the next. D is HEAD_DIM padded to a power of two; what
    lies beyond HEAD_DIM is never read.
    """
    kv_head, split = tl.program_id(0), tl.program_id(1)
    sequence, block = tl.program_id(2) // q_blocks, tl.program_id(2) % q_blocks
    first_token = tl.load(cu_seqlens_q + sequence)
    queries = tl.load(cu_seqlens_q + sequence + 1) - first_token
    kv_len = tl.load(kv_lens + sequence)
    visible = kv_len
    if CAUSAL:  # nothing past this block's last query
        visible = tl.minimum(kv_len, kv_len - queries + tl.cdiv((block + 1) * BLOCK_M, GROUP))
    splits = num_splits(visible, SPLITS)
    if (block * BLOCK_M >= queries * GROUP) | (split >= splits) | (SKIP_DECODES & (queries == 1)):
        return
    table = page_table + sequence.to(tl.int64) * TABLE_ROW
    per_split = tl.cdiv(tl.cdiv(visible, splits), BLOCK_N) * BLOCK_N
    begin = split * per_split
    end = tl.minimum(visible, begin + per_split)
    # The kernel before may have written self keys, but no cross keys: their first tile can be
    # fetched into L2 while it still runs.
    if OVERLAP and not CAUSAL:
        keys = begin + tl.arange(0, BLOCK_N)
        offsets = key_offsets(table, keys, keys < end, PAGE, KV_PAGE, KV_TOKEN) + kv_head * KV_HEAD
        to_l2(k + offsets)
        to_l2(v + offsets)
    wait_for_previous(OVERLAP)
    dims = tl.arange(0, D)
    in_head = dims < HEAD_DIM
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    is_query = rows < queries * GROUP
    head = kv_head  # of each row, a scalar where all have the same
    if GROUP > 1:
        head = kv_head * GROUP + rows % GROUP
        rows = rows // GROUP
    tokens = (first_token + rows).to(tl.int64)
    # float16 holds every float8 exactly.
    compute = tl.float16 if k.dtype.element_ty == tl.float8e4nv else q.dtype.element_ty
    query_rows = (q + tokens * Q_TOKEN + head * Q_HEAD)[:, None] + dims[None, :]
    block_q = tl.load(query_rows, mask=is_query[:, None] & in_head[None, :], other=0.0).to(compute)

    position = kv_len - queries + rows  # of each query, when causal
    highest = tl.full([BLOCK_M], MINUS_INF, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    factor = scale * LOG2_E
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        is_key = keys < end
        offsets = key_offsets(table, keys, is_key, PAGE, KV_PAGE, KV_TOKEN) + kv_head * KV_HEAD
        k_mask = is_key[None, :] & in_head[:, None]
        block_k = tl.load(k + offsets[None, :] + dims[:, None], mask=k_mask, other=0.0)
        v_mask = is_key[:, None] & in_head[None, :]
        block_v = tl.load(v + offsets[:, None] + dims[None, :], mask=v_mask, other=0.0)
        scores = tl.dot(block_q, block_k.to(compute), input_precision="ieee") * factor
        if BIAS:
            distance = tl.minimum(tl.maximum(position[:, None] - keys[None, :], 0), last_distance)
            bias_row = head * (last_distance + 1)
            if GROUP > 1:
                bias_row = bias_row[:, None]
            scores += tl.load(bias + bias_row + distance) * LOG2_E
        seen = is_key[None, :]
        if CAUSAL:
            seen = seen & (keys[None, :] <= position[:, None])
        scores = tl.where(seen, scores, MINUS_INF)
        top = tl.maximum(highest, tl.max(scores, 1))
        safe = tl.where(top == MINUS_INF, 0.0, top)  # of a row that has seen no key yet
        weights = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(highest - safe)
        total = total * shrink + tl.sum(weights, 1)
        highest = top
        acc = acc * shrink[:, None]
        acc += tl.dot(weights.to(compute), block_v.to(compute), input_precision="ieee")

    finish(
        acc, highest, total,
        out, partial, partial_lse, arrivals + tl.program_id(2) * (HEADS // GROUP) + kv_head,
        tokens, is_query, head, split, splits, num_tokens,
        OUT_TOKEN, OUT_HEAD, HEADS, HEAD_DIM, D, SPLITS,
    )  # fmt: skip


def paged_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    kv_lens: torch.Tensor,
    page_table: torch.Tensor,
    launch: PagedLaunch,
    workspace: Workspace,
    *,
    max_query_len: int,
    scale: float,
    causal: bool,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """[tokens, heads, head_dim] for packed queries `q` of that shape.

    `k`, `v` [pages, page_size, kv_heads, head_dim] with equal strides, where each head
    is read by equally many of `q`; `cu_seqlens_q` [sequences + 1], `kv_lens`
    [sequences] and `page_table` [sequences, pages] int32. `bias` [heads, distances]
    float32 is added at query position - key position; its last one stands for all
    distances beyond. `max_query_len` 1 means that every sequence has one query.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    num_tokens, heads, _ = q.shape
    sequences, kv_heads = len(kv_lens), k.shape[2]
    group = heads // kv_heads
    # Heads that share their keys fill rows of a tile: it then serves single queries too.
    decodes_apart = k.dtype == FLOAT8 and group == 1
    partial, lse, arrivals = workspace.partial, workspace.lse, workspace.arrivals
    arguments = (
        *(q, k, v, out, partial, lse, arrivals, cu_seqlens_q, kv_lens, page_table),
        lse if bias is None else bias,
        scale,
        0 if bias is None else bias.shape[1] - 1,
        num_tokens,
    )
    constants = {
        **_shapes(q, k, out, page_table),
        "SPLITS": launch.splits,
        "BIAS": bias is not None,
        **overlapped(q.device),
    }
    if decodes_apart:
        blocks = math.ceil(sequences / launch.sequences)
        decode_kernel[heads, launch.splits, blocks](
            *arguments,
            sequences,
            launch.sequences,
            SEVERAL=launch.sequences > 1,
            **constants,
            **_tile_options(launch.decode_tile),
        )
    if not decodes_apart or max_query_len > 1:
        q_blocks = math.ceil(max_query_len * group / BLOCK_M)
        _paged_kernel[kv_heads, launch.splits, sequences * q_blocks](
            *arguments,
            q_blocks,
            GROUP=group,
            BLOCK_M=BLOCK_M,
            CAUSAL=causal,
            SKIP_DECODES=decodes_apart,
            **constants,
            **_tile_options(launch.tile),
        )
    return out


def _shapes(
    q: torch.Tensor, k: torch.Tensor, out: torch.Tensor, page_table: torch.Tensor
) -> dict[str, int]:
    """The kernels' constants that follow from shapes and strides."""
    _, heads, head_dim = q.shape
    return {
        "Q_TOKEN": q.stride(0),
        "Q_HEAD": q.stride(1),
        "KV_PAGE": k.stride(0),
        "KV_TOKEN": k.stride(1),
        "KV_HEAD": k.stride(2),
        "OUT_TOKEN": out.stride(0),
        "OUT_HEAD": out.stride(1),
        "TABLE_ROW": page_table.stride(0),
        "HEADS": heads,
        "HEAD_DIM": head_dim,
        "D": padded(head_dim),
        "PAGE": k.shape[1],
    }


def _tile_options(tile: Tile) -> dict[str, Any]:
    return {"BLOCK_N": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages}
