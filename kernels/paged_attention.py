"""Triton kernels for attention to paged keys and values: one for any number of queries, one for float8 pages and one query.

A program attends one block of a sequence's queries, for one head, to one split of its keys, with a running softmax (Milakov and
Gimelshein 2018). Both are bound by reading keys and values, so what counts is enough splits to keep the whole device reading
(Flash-Decoding, Dao et al. 2023). Whichever program of a query block ends last joins the splits: no second launch.

Lengths and page tables are read on the device, so a captured graph stays valid while they change.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.launch import overlapped, to_l2, wait_for_previous
from antiphon.kernels.paged_launch import LEAST_KEYS as LEAST_KEYS_OF_A_SPLIT
from antiphon.kernels.paged_launch import PagedLaunch, Tile

BLOCK_M = 16  # queries of one program; the tensor cores' least
LEAST_KEYS = tl.constexpr(LEAST_KEYS_OF_A_SPLIT)
LOG2_E = tl.constexpr(1.4426950408889634)
MINUS_INF = tl.constexpr(float("-inf"))
TILES = tl.constexpr(4)  # of keys that the float8 kernel has under way together


# Strides are constants of a model: as such they tell the compiler what is aligned (72 elements are 16 bytes nine times, but no
# multiple of 16 elements). Sizes of a step are not, and must not make it compile anew.
@triton.jit(do_not_specialize=["num_tokens", "num_sequences", "q_blocks", "each"])
def _decode_kernel(
    q, k, v, out, partial, partial_lse, arrivals, query_starts, kv_lens, page_table, bias,
    scale, last_distance,
    num_tokens, num_sequences, q_blocks, each,
    Q_TOKEN: tl.constexpr, Q_HEAD: tl.constexpr, KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr, KV_HEAD: tl.constexpr,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, TABLE_ROW: tl.constexpr, HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, CAUSAL: tl.constexpr, BIAS: tl.constexpr,
    SKIP_DECODES: tl.constexpr, SEVERAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Sequences with one query, of float8 pages, without tensor cores: one row of sixteen would be used, and moving tiles into
    their layout costs more than the products. A program takes `each` of them where it takes SEVERAL. Each of a tile's BLOCK_N rows
    keeps a running softmax of its own; they meet only at the end. It takes what `_paged_kernel` takes, so that one launch serves both.
    """
    first = tl.program_id(2) * (each if SEVERAL else 1)
    for i in range(tl.minimum(each, num_sequences - first) if SEVERAL else 1):
        _decode_sequence(
            q, k, v, out, partial, partial_lse, arrivals, query_starts, kv_lens, page_table, bias,
            scale, last_distance, num_tokens, first + i,
            Q_TOKEN, Q_HEAD, KV_PAGE, KV_TOKEN, KV_HEAD, OUT_TOKEN, OUT_HEAD, TABLE_ROW, HEADS, HEAD_DIM, D, PAGE,
            BLOCK_N, SPLITS, BIAS, OVERLAP,
        )  # fmt: skip


@triton.jit
def _decode_sequence(
    q, k, v, out, partial, partial_lse, arrivals, query_starts, kv_lens, page_table, bias,
    scale, last_distance, num_tokens, sequence,
    Q_TOKEN: tl.constexpr, Q_HEAD: tl.constexpr, KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr, KV_HEAD: tl.constexpr,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, TABLE_ROW: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    D: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, BIAS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    head, split = tl.program_id(0), tl.program_id(1)
    token = tl.load(query_starts + sequence).to(tl.int64)
    kv_len = tl.load(kv_lens + sequence)
    splits = _splits(kv_len, SPLITS)
    if (tl.load(query_starts + sequence + 1) - token != 1) | (split >= splits):
        return  # the other kernel's, or nobody's
    wait_for_previous(OVERLAP)
    dims = tl.arange(0, D)
    in_head = dims < HEAD_DIM
    query = tl.load(q + token * Q_TOKEN + head * Q_HEAD + dims, mask=in_head, other=0.0).to(
        tl.float32
    )
    largest = tl.maximum(tl.max(tl.abs(query), 0), 1e-30)
    query = (query / largest).to(
        tl.float16
    )  # at most 1, so that sums of products with float8 stay within float16
    factor = largest * scale * LOG2_E
    per_split = tl.cdiv(tl.cdiv(kv_len, splits), TILES * BLOCK_N) * TILES * BLOCK_N
    begin = split * per_split
    end = tl.minimum(kv_len, begin + per_split)

    highest = tl.full([BLOCK_N], MINUS_INF, tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    sums = tl.zeros([BLOCK_N, D], tl.float32)
    table = page_table + sequence.to(tl.int64) * TABLE_ROW
    columns = tl.arange(0, BLOCK_N)
    at = (head * KV_HEAD + dims)[None, :]
    for start in range(begin, end, TILES * BLOCK_N):
        k0, v0 = _load_tile(k, v, table, start + columns, end, at, in_head, PAGE, KV_PAGE, KV_TOKEN)
        k1, v1 = _load_tile(
            k, v, table, start + BLOCK_N + columns, end, at, in_head, PAGE, KV_PAGE, KV_TOKEN
        )
        k2, v2 = _load_tile(
            k, v, table, start + 2 * BLOCK_N + columns, end, at, in_head, PAGE, KV_PAGE, KV_TOKEN
        )
        k3, v3 = _load_tile(
            k, v, table, start + 3 * BLOCK_N + columns, end, at, in_head, PAGE, KV_PAGE, KV_TOKEN
        )
        s0 = _score_tile(
            k0, query, start + columns, kv_len, end, factor, bias, head, last_distance, BIAS
        )
        s1 = _score_tile(
            k1,
            query,
            start + BLOCK_N + columns,
            kv_len,
            end,
            factor,
            bias,
            head,
            last_distance,
            BIAS,
        )
        s2 = _score_tile(
            k2,
            query,
            start + 2 * BLOCK_N + columns,
            kv_len,
            end,
            factor,
            bias,
            head,
            last_distance,
            BIAS,
        )
        s3 = _score_tile(
            k3,
            query,
            start + 3 * BLOCK_N + columns,
            kv_len,
            end,
            factor,
            bias,
            head,
            last_distance,
            BIAS,
        )
        top = tl.maximum(highest, tl.maximum(tl.maximum(s0, s1), tl.maximum(s2, s3)))
        safe = tl.where(top == MINUS_INF, 0.0, top)  # of a row that has seen nothing
        shrink = tl.exp2(highest - safe)
        w0, w1, w2, w3 = (
            tl.exp2(s0 - safe),
            tl.exp2(s1 - safe),
            tl.exp2(s2 - safe),
            tl.exp2(s3 - safe),
        )
        total = total * shrink + ((w0 + w1) + (w2 + w3))
        highest = top
        part = w0.to(tl.float16)[:, None] * v0.to(tl.float16)
        part += w1.to(tl.float16)[:, None] * v1.to(tl.float16)
        part += w2.to(tl.float16)[:, None] * v2.to(tl.float16)
        part += w3.to(tl.float16)[:, None] * v3.to(tl.float16)
        sums = sums * shrink[:, None] + part.to(tl.float32)

    top = tl.max(highest, 0)
    weights = tl.exp2(highest - tl.where(top == MINUS_INF, 0.0, top))
    rows = tl.arange(0, 1)
    _finish(
        tl.sum(sums * weights[:, None], 0)[None, :], top + rows * 0.0, tl.sum(total * weights, 0) + rows * 0.0,
        out, partial, partial_lse, arrivals + sequence * HEADS + head, token + rows, rows < 1, head, split, splits,
        num_tokens, OUT_TOKEN, OUT_HEAD, HEADS, HEAD_DIM, D, SPLITS,
    )  # fmt: skip


@triton.jit
def _places(table, keys, is_key, PAGE: tl.constexpr, KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr):
    """Where the pages hold `keys` of a sequence, in elements."""
    page = tl.load(table + keys // PAGE, mask=is_key, other=0).to(tl.int64)
    return page * KV_PAGE + (keys % PAGE) * KV_TOKEN


@triton.jit
def _load_tile(
    k, v, table, keys, end, at, in_head, PAGE: tl.constexpr, KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr
):  # fmt: skip
    is_key = keys < end
    place = _places(table, keys, is_key, PAGE, KV_PAGE, KV_TOKEN)[:, None] + at
    shown = is_key[:, None] & in_head[None, :]
    return tl.load(k + place, mask=shown, other=0.0), tl.load(v + place, mask=shown, other=0.0)


@triton.jit
def _score_tile(
    block_k, query, keys, kv_len, end, factor, bias, head, last_distance, BIAS: tl.constexpr
):
    scores = tl.sum(block_k.to(tl.float16) * query[None, :], 1).to(tl.float32) * factor
    if BIAS:
        distance = tl.minimum(tl.maximum(kv_len - 1 - keys, 0), last_distance)
        scores += tl.load(bias + head * (last_distance + 1) + distance) * LOG2_E
    return tl.where(keys < end, scores, MINUS_INF)


@triton.jit(do_not_specialize=["num_tokens", "num_sequences", "q_blocks", "each"])
def _paged_kernel(
    q, k, v, out, partial, partial_lse, arrivals, query_starts, kv_lens, page_table, bias,
    scale, last_distance,
    num_tokens, num_sequences, q_blocks, each,
    Q_TOKEN: tl.constexpr, Q_HEAD: tl.constexpr, KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr, KV_HEAD: tl.constexpr,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, TABLE_ROW: tl.constexpr, HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, CAUSAL: tl.constexpr, BIAS: tl.constexpr,
    SKIP_DECODES: tl.constexpr, SEVERAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Any number of queries a sequence. D: HEAD_DIM padded to a power of two; what lies beyond is never read."""
    head, split = tl.program_id(0), tl.program_id(1)
    sequence, block = tl.program_id(2) // q_blocks, tl.program_id(2) % q_blocks
    first_token = tl.load(query_starts + sequence)
    queries = tl.load(query_starts + sequence + 1) - first_token
    kv_len = tl.load(kv_lens + sequence)
    visible = kv_len
    if CAUSAL:  # nothing past this block's last query
        visible = tl.minimum(kv_len, kv_len - queries + (block + 1) * BLOCK_M)
    splits = _splits(visible, SPLITS)
    if (block * BLOCK_M >= queries) | (split >= splits) | (SKIP_DECODES & (queries == 1)):
        return
    table = page_table + sequence.to(tl.int64) * TABLE_ROW
    per_split = tl.cdiv(tl.cdiv(visible, splits), BLOCK_N) * BLOCK_N
    begin = split * per_split
    end = tl.minimum(visible, begin + per_split)
    if (
        OVERLAP and not CAUSAL
    ):  # the kernel before may have written self keys, but no cross keys: the first tile into L2
        keys = begin + tl.arange(0, BLOCK_N)
        at = _places(table, keys, keys < end, PAGE, KV_PAGE, KV_TOKEN) + head * KV_HEAD
        to_l2(k + at)
        to_l2(v + at)
    wait_for_previous(OVERLAP)
    dims = tl.arange(0, D)
    in_head = dims < HEAD_DIM
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    tokens = (first_token + rows).to(tl.int64)
    is_query = rows < queries
    compute = (
        tl.float16 if k.dtype.element_ty == tl.float8e4nv else q.dtype.element_ty
    )  # float16 holds every float8 exactly
    queries_at = (q + tokens * Q_TOKEN + head * Q_HEAD)[:, None] + dims[None, :]
    block_q = tl.load(queries_at, mask=is_query[:, None] & in_head[None, :], other=0.0).to(compute)

    position = kv_len - queries + rows  # of each query, when causal
    highest = tl.full([BLOCK_M], MINUS_INF, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    factor = scale * LOG2_E
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        is_key = keys < end
        at = _places(table, keys, is_key, PAGE, KV_PAGE, KV_TOKEN) + head * KV_HEAD
        block_k = tl.load(
            k + at[None, :] + dims[:, None], mask=is_key[None, :] & in_head[:, None], other=0.0
        )
        block_v = tl.load(
            v + at[:, None] + dims[None, :], mask=is_key[:, None] & in_head[None, :], other=0.0
        )
        scores = tl.dot(block_q, block_k.to(compute), input_precision="ieee") * factor
        if BIAS:
            distance = tl.minimum(tl.maximum(position[:, None] - keys[None, :], 0), last_distance)
            scores += tl.load(bias + head * (last_distance + 1) + distance) * LOG2_E
        seen = is_key[None, :]
        if CAUSAL:
            seen = seen & (keys[None, :] <= position[:, None])
        scores = tl.where(seen, scores, MINUS_INF)
        top = tl.maximum(highest, tl.max(scores, 1))
        safe = tl.where(top == MINUS_INF, 0.0, top)  # of a row that has seen nothing yet
        weights = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(highest - safe)
        total = total * shrink + tl.sum(weights, 1)
        highest = top
        acc = acc * shrink[:, None] + tl.dot(
            weights.to(compute), block_v.to(compute), input_precision="ieee"
        )

    _finish(
        acc, highest, total,
        out, partial, partial_lse, arrivals + tl.program_id(2) * HEADS + head, tokens, is_query, head, split, splits,
        num_tokens, OUT_TOKEN, OUT_HEAD, HEADS, HEAD_DIM, D, SPLITS,
    )  # fmt: skip


@triton.jit
def _splits(keys, SPLITS: tl.constexpr):
    """Of the SPLITS that were launched, as many as these keys are worth."""
    return tl.maximum(tl.minimum(tl.cdiv(keys, LEAST_KEYS), SPLITS), 1)


@triton.jit
def _finish(
    acc, highest, total, out, partial, partial_lse, arrivals, tokens, is_query, head, split, splits,
    num_tokens, OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Writes the output rows of `acc` [rows, D], or leaves them for the last of the splits, which joins all."""
    dims = tl.arange(0, D)
    is_output = is_query[:, None] & (dims < HEAD_DIM)[None, :]
    sees = total > 0.0  # a split may be empty
    total = tl.where(sees, total, 1.0)
    acc = acc / total[:, None]
    out_at = out + (tokens * OUT_TOKEN + head * OUT_HEAD)[:, None] + dims[None, :]
    if splits == 1:
        tl.store(out_at, acc.to(out.dtype.element_ty), mask=is_output)
    elif SPLITS > 1:
        row = (split * num_tokens + tokens) * HEADS + head
        tl.store(partial + row[:, None] * D + dims[None, :], acc, mask=is_output)
        tl.store(
            partial_lse + row, tl.where(sees, highest + tl.log2(total), MINUS_INF), mask=is_query
        )
        tl.debug_barrier()  # every thread has written its part before this program counts as arrived
        if tl.atomic_add(arrivals, 1, sem="acq_rel") == splits - 1:
            tl.store(arrivals, 0)  # ready for the next launch
            highest = tl.where(is_query, MINUS_INF, 0.0)  # of rows that are none, anything finite
            # `tokens * 0` makes the bound a block: the interpreter takes no mask that was made of scalars.
            for i in tl.static_range(SPLITS):
                row = (i * num_tokens + tokens) * HEADS + head
                there = is_query & (tokens * 0 + i < splits)
                highest = tl.maximum(
                    highest, tl.load(partial_lse + row, mask=there, other=MINUS_INF)
                )
            total = total * 0.0
            acc = acc * 0.0
            for i in tl.static_range(SPLITS):
                row = (i * num_tokens + tokens) * HEADS + head
                there = is_query & (tokens * 0 + i < splits)
                weight = tl.exp2(tl.load(partial_lse + row, mask=there, other=MINUS_INF) - highest)
                total += weight
                part = tl.load(
                    partial + row[:, None] * D + dims[None, :],
                    mask=is_output & there[:, None],
                    other=0.0,
                )
                acc += weight[:, None] * part
            total = tl.where(is_query, total, 1.0)
            tl.store(out_at, (acc / total[:, None]).to(out.dtype.element_ty), mask=is_output)


@dataclass(frozen=True)
class Workspace:
    """What splits leave for the one that joins them. `arrivals` is zero between launches."""

    partial: torch.Tensor  # [splits * tokens * heads * padded head_dim] float32
    lse: torch.Tensor  # [splits * tokens * heads] float32
    arrivals: torch.Tensor  # [query blocks * heads] int32

    @classmethod
    def make(
        cls, splits: int, tokens: int, blocks: int, heads: int, head_dim: int, device: torch.device
    ) -> "Workspace":
        rows = _partial_rows(splits, tokens, heads)
        return cls(
            torch.empty(rows * padded(head_dim), dtype=torch.float32, device=device),
            torch.empty(rows, dtype=torch.float32, device=device),
            torch.zeros(blocks * heads, dtype=torch.int32, device=device),
        )

    def holds(self, splits: int, tokens: int, blocks: int, heads: int, head_dim: int) -> bool:
        rows = _partial_rows(splits, tokens, heads)
        return (
            len(self.partial) >= rows * padded(head_dim)
            and len(self.lse) >= rows
            and len(self.arrivals) >= blocks * heads
        )


def _partial_rows(splits: int, tokens: int, heads: int) -> int:
    return splits * tokens * heads if splits > 1 else 1


def padded(head_dim: int) -> int:
    """The power of two that a tile's rows have; at least the 16 that the tensor cores want."""
    return max(16, triton.next_power_of_2(head_dim))


def paged_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_starts: torch.Tensor,
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

    `k`, `v` [pages, page_size, heads, head_dim] with equal strides; `query_starts` [sequences + 1], `kv_lens` [sequences] and
    `page_table` [sequences, pages] int32. `bias` [heads, distances] float32, added at query position - key position; the last
    one stands for all that are further away. `max_query_len` 1 means that every sequence has one query.
    """
    tokens, heads, head_dim = q.shape
    out = torch.empty((tokens, heads, head_dim), dtype=q.dtype, device=q.device)
    sequences, float8 = len(kv_lens), k.dtype == FLOAT8

    def run(kernel: Any, grid: int, q_blocks: int, tile: Tile, skip_decodes: bool) -> None:
        kernel[heads, launch.splits, grid](
            q, k, v, out, workspace.partial, workspace.lse, workspace.arrivals, query_starts, kv_lens, page_table,
            bias if bias is not None else workspace.lse,
            scale, bias.shape[1] - 1 if bias is not None else 0,
            tokens, sequences, q_blocks, launch.sequences,
            Q_TOKEN=q.stride(0), Q_HEAD=q.stride(1), KV_PAGE=k.stride(0), KV_TOKEN=k.stride(1), KV_HEAD=k.stride(2),
            OUT_TOKEN=out.stride(0), OUT_HEAD=out.stride(1), TABLE_ROW=page_table.stride(0), HEADS=heads, HEAD_DIM=head_dim,
            D=padded(head_dim), PAGE=k.shape[1], BLOCK_M=BLOCK_M, BLOCK_N=tile.keys, SPLITS=launch.splits,
            CAUSAL=causal, BIAS=bias is not None, SKIP_DECODES=skip_decodes, SEVERAL=launch.sequences > 1,
            num_warps=tile.warps, num_stages=tile.stages, **overlapped(q.device),
        )  # fmt: skip

    if float8:
        run(_decode_kernel, -(-sequences // launch.sequences), 1, launch.decode_tile, False)
    if not float8 or max_query_len > 1:
        q_blocks = -(-max_query_len // BLOCK_M)
        run(_paged_kernel, sequences * q_blocks, q_blocks, launch.tile, float8)
    return out
