"""Triton kernel for cross-attention on an encoder's hidden states, in pages.

All heads of a layer attend to the same rows, which are keys and values at once, as wide as the
encoder's states (`layers/absorbed.py` has the algebra). So a program takes all heads of some
queries of one sequence, and reads each tile of states once:

                  states of one sequence, in pages: [tokens, width]
                  | chunk 0 | chunk 1 | ... | chunk 9 |
    tile i        |         |         |     |         |     16 or 32 tokens
                     scores += q_c . tile_c      over all chunks; then the running softmax, and
                     sums_c += weights . tile_c  of every chunk

What is unusual is the width, 768 to 2048 where a head has 64: neither the sums nor a tile are one
block of a power of two, so both are tuples of chunks. Splits of a sequence's tokens are joined by
whichever program ends last, as in `paged_splits.py`.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from antiphon.kernels.latent_launch import LatentLaunch, TritonTile
from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.online_softmax import softmax_step
from antiphon.kernels.paged_splits import LOG2_E, MINUS_INF, Workspace, key_offsets, num_splits


@triton.jit(do_not_specialize=["num_tokens", "q_blocks"])
def _latent_kernel(
    q, states, out, partial, partial_lse, arrivals, cu_seqlens_q, kv_lens, page_table,
    scale, q_token, q_head, num_tokens, q_blocks,
    STATE_PAGE: tl.constexpr, STATE_TOKEN: tl.constexpr, TABLE_ROW: tl.constexpr,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr,
    TWICE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (sequence * q_blocks + block, split) takes one block of a sequence's rows: the heads
    of the first query, then those of the next. `out` [tokens, HEADS, WIDTH] is contiguous. TWICE:
    states are read for the scores and again for the sums, as a tile of them fits nowhere."""
    split = tl.program_id(1)
    sequence, block = tl.program_id(0) // q_blocks, tl.program_id(0) % q_blocks
    first_token = tl.load(cu_seqlens_q + sequence)
    queries = tl.load(cu_seqlens_q + sequence + 1) - first_token
    kv_len = tl.load(kv_lens + sequence)
    splits = num_splits(kv_len, SPLITS)
    if (block * BLOCK_M >= queries * HEADS) | (split >= splits):
        return
    table = page_table + sequence.to(tl.int64) * TABLE_ROW
    per_split = tl.cdiv(tl.cdiv(kv_len, splits), BLOCK_N) * BLOCK_N
    begin = split * per_split
    end = tl.minimum(kv_len, begin + per_split)
    wait_for_previous(OVERLAP)
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    is_query = rows < queries * HEADS
    tokens, heads = (first_token + rows // HEADS).to(tl.int64), rows % HEADS
    query_rows = q + (tokens * q_token + heads * q_head)[:, None]
    chunk = tl.arange(0, CHUNK)
    # float16 holds every float8 exactly.
    is_float8: tl.constexpr = states.dtype.element_ty == tl.float8e4nv
    compute: tl.constexpr = tl.float16 if is_float8 else q.dtype.element_ty

    highest = tl.full([BLOCK_M], MINUS_INF, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = ()
    for _ in tl.static_range(CHUNKS):
        sums += (tl.zeros([BLOCK_M, CHUNK], tl.float32),)  # type: ignore[assignment]
    factor = scale * LOG2_E
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        is_key = keys < end
        offsets = key_offsets(table, keys, is_key, PAGE, STATE_PAGE, STATE_TOKEN)
        scores = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        tile = ()
        for c in tl.static_range(CHUNKS):
            dims = c * CHUNK + chunk
            query = tl.load(
                query_rows + dims[None, :],
                mask=is_query[:, None] & (dims < WIDTH)[None, :],
                other=0.0,
            )
            part = _states(states, offsets, is_key, dims, WIDTH, "").to(compute)
            scores = tl.dot(query.to(compute), tl.trans(part), scores, input_precision="ieee")
            if not TWICE:
                tile += (part,)  # type: ignore[assignment]
        scores = tl.where(is_key[None, :], scores * factor, MINUS_INF)
        weights, shrink, highest, total = softmax_step(scores, highest, total)  # a tile has a key
        weights = weights.to(compute)
        shrunk = sums
        sums = ()
        for c in tl.static_range(CHUNKS):
            rest = shrunk[c] * shrink[:, None]
            if TWICE:
                dims = c * CHUNK + chunk
                part = _states(states, offsets, is_key, dims, WIDTH, ".ca").to(compute)
            else:
                part = tile[c]
            chunk_sum = tl.dot(weights, part, rest, input_precision="ieee")
            sums += (chunk_sum,)  # type: ignore[assignment]

    has_keys = total > 0.0  # a split may be empty
    total = tl.where(has_keys, total, 1.0)
    out_rows = out + ((tokens * HEADS + heads) * WIDTH)[:, None]
    if splits == 1:
        for c in tl.static_range(CHUNKS):
            dims = c * CHUNK + chunk
            is_output = is_query[:, None] & (dims < WIDTH)[None, :]
            values = (sums[c] / total[:, None]).to(out.dtype.element_ty)
            tl.store(out_rows + dims[None, :], values, mask=is_output)
    elif SPLITS > 1:
        row = (split * num_tokens + tokens) * HEADS + heads
        for c in tl.static_range(CHUNKS):
            tl.store(
                partial + (row * (CHUNKS * CHUNK))[:, None] + (c * CHUNK + chunk)[None, :],
                sums[c] / total[:, None],
                mask=is_query[:, None],
            )
        lse = tl.where(has_keys, highest + tl.log2(total), MINUS_INF)
        tl.store(partial_lse + row, lse, mask=is_query)
        tl.debug_barrier()  # every thread has written its part before this program has arrived
        if tl.atomic_add(arrivals + tl.program_id(0), 1, sem="acq_rel") == splits - 1:
            tl.store(arrivals + tl.program_id(0), 0)  # ready for the next launch
            _join(
                partial, partial_lse, out_rows, tokens, heads, is_query, splits, num_tokens,
                out.dtype.element_ty, HEADS, WIDTH, CHUNK, CHUNKS, BLOCK_M,
            )  # fmt: skip


@triton.jit
def _states(states, offsets, is_key, dims, WIDTH: tl.constexpr, CACHE: tl.constexpr):
    """The features `dims` of a tile of tokens. Loads of different CACHE stay two loads."""
    return tl.load(
        states + offsets[:, None] + dims[None, :],
        mask=is_key[:, None] & (dims < WIDTH)[None, :],
        other=0.0,
        cache_modifier=CACHE,
    )


@triton.jit
def _join(
    partial, partial_lse, out_rows, tokens, heads, is_query, splits, num_tokens,
    DTYPE: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Writes the output rows of what all splits have left."""
    highest = tl.where(is_query, MINUS_INF, 0.0)  # of rows past the queries: finite
    for i in range(splits):
        row = (i * num_tokens + tokens) * HEADS + heads
        lse = tl.load(partial_lse + row, mask=is_query, other=MINUS_INF)
        highest = tl.maximum(highest, lse)
    for c in range(CHUNKS):
        dims = c * CHUNK + tl.arange(0, CHUNK)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, CHUNK], tl.float32)
        for i in range(splits):
            row = (i * num_tokens + tokens) * HEADS + heads
            lse = tl.load(partial_lse + row, mask=is_query, other=MINUS_INF)
            weight = tl.exp2(lse - highest)
            total += weight
            part = tl.load(
                partial + (row * (CHUNKS * CHUNK))[:, None] + dims[None, :],
                mask=is_query[:, None],
                other=0.0,
            )
            acc += weight[:, None] * part
        total = tl.where(is_query, total, 1.0)
        is_output = is_query[:, None] & (dims < WIDTH)[None, :]
        tl.store(out_rows + dims[None, :], (acc / total[:, None]).to(DTYPE), mask=is_output)


def latent_attention(
    q: torch.Tensor,
    states: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    kv_lens: torch.Tensor,
    page_table: torch.Tensor,
    launch: LatentLaunch[TritonTile],
    workspace: Workspace,
    *,
    max_query_len: int,
    scale: float,
) -> torch.Tensor:
    """[tokens, heads, width] for packed queries `q` of that shape, rows contiguous: weighted sums
    of `states` [pages, page_size, width], of the same dtype or float8, which all queries of a
    sequence see.

    `cu_seqlens_q` [sequences + 1], `kv_lens` [sequences] and `page_table` [sequences, pages] int32.
    `workspace`: as for one head of rows, as wide as the tile's features.
    """
    (num_tokens, heads, width), tile = q.shape, launch.tile
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    q_blocks = tile.blocks(max_query_len * heads)
    options: dict[str, Any] = {"num_warps": 8, "num_stages": tile.stages}
    _latent_kernel[len(kv_lens) * q_blocks, launch.splits](
        q, states, out, workspace.partial, workspace.lse, workspace.arrivals,
        cu_seqlens_q, kv_lens, page_table,
        scale, q.stride(0), q.stride(1), num_tokens, q_blocks,
        STATE_PAGE=states.stride(0), STATE_TOKEN=states.stride(1), TABLE_ROW=page_table.stride(0),
        HEADS=heads, WIDTH=width, CHUNK=tile.chunk, CHUNKS=tile.features // tile.chunk,
        PAGE=states.shape[1], BLOCK_M=tile.rows, BLOCK_N=tile.tokens, SPLITS=launch.splits,
        TWICE=states.dtype == torch.float32,  # the compiler stores tiles of it in two layouts
        **options, **overlapped(q.device),
    )  # fmt: skip
    return out
