"""Triton kernel for attention of one query per sequence to float8 pages, without tensor cores.

With tensor cores one row of sixteen would be used, and moving tiles into their layout
would cost more than the products.
"""

import triton
import triton.language as tl

from antiphon.kernels.launch import wait_for_previous
from antiphon.kernels.paged_splits import LOG2_E, MINUS_INF, finish, key_offsets, num_splits

TILES = tl.constexpr(4)  # of keys that are in flight together


# Strides are constants of a model: as such they tell the compiler what is aligned (72 elements are
# 16 bytes nine times, but no multiple of 16 elements). Sizes of a step are not constants: they must
# not make it compile anew.
@triton.jit(do_not_specialize=["num_tokens", "num_sequences", "per_program"])
def decode_kernel(
    q, k, v, out, partial, partial_lse, arrivals, cu_seqlens_q, kv_lens, page_table, bias,
    scale, last_distance, num_tokens, num_sequences, per_program,
    Q_TOKEN: tl.constexpr, Q_HEAD: tl.constexpr,
    KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr, KV_HEAD: tl.constexpr,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, TABLE_ROW: tl.constexpr,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, BIAS: tl.constexpr,
    SEVERAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (head, split, i) takes sequence i; if SEVERAL, `per_program`, one by one."""
    first = tl.program_id(2) * (per_program if SEVERAL else 1)
    for i in range(tl.minimum(per_program, num_sequences - first) if SEVERAL else 1):
        _decode_sequence(
            q, k, v, out, partial, partial_lse, arrivals, cu_seqlens_q, kv_lens, page_table, bias,
            scale, last_distance, num_tokens, first + i,
            Q_TOKEN, Q_HEAD, KV_PAGE, KV_TOKEN, KV_HEAD, OUT_TOKEN, OUT_HEAD, TABLE_ROW,
            HEADS, HEAD_DIM, D, PAGE, BLOCK_N, SPLITS, BIAS, OVERLAP,
        )  # fmt: skip


@triton.jit
def _decode_sequence(
    q, k, v, out, partial, partial_lse, arrivals, cu_seqlens_q, kv_lens, page_table, bias,
    scale, last_distance, num_tokens, sequence,
    Q_TOKEN: tl.constexpr, Q_HEAD: tl.constexpr,
    KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr, KV_HEAD: tl.constexpr,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr, TABLE_ROW: tl.constexpr,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, BIAS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Each of a tile's BLOCK_N rows keeps a running softmax; they meet only at the end."""
    head, split = tl.program_id(0), tl.program_id(1)
    token = tl.load(cu_seqlens_q + sequence).to(tl.int64)
    kv_len = tl.load(kv_lens + sequence)
    splits = num_splits(kv_len, SPLITS)
    if (tl.load(cu_seqlens_q + sequence + 1) - token != 1) | (split >= splits):
        return  # several queries are the other kernel's; a split too many has no keys
    wait_for_previous(OVERLAP)
    dims = tl.arange(0, D)
    in_head = dims < HEAD_DIM
    query_row = q + token * Q_TOKEN + head * Q_HEAD + dims
    query = tl.load(query_row, mask=in_head, other=0.0).to(tl.float32)
    # At most 1, so that sums of products with float8 stay within float16.
    largest = tl.maximum(tl.max(tl.abs(query), 0), 1e-30)
    query = (query / largest).to(tl.float16)
    factor = largest * scale * LOG2_E
    per_split = tl.cdiv(tl.cdiv(kv_len, splits), TILES * BLOCK_N) * TILES * BLOCK_N
    begin = split * per_split
    end = tl.minimum(kv_len, begin + per_split)

    highest = tl.full([BLOCK_N], MINUS_INF, tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    sums = tl.zeros([BLOCK_N, D], tl.float32)
    table = page_table + sequence.to(tl.int64) * TABLE_ROW
    row = tl.arange(0, BLOCK_N)
    columns = (head * KV_HEAD + dims)[None, :]
    for start in range(begin, end, TILES * BLOCK_N):
        keys0 = start + row
        k0, v0 = _load_tile(k, v, table, keys0, end, columns, in_head, PAGE, KV_PAGE, KV_TOKEN)
        keys1 = start + BLOCK_N + row
        k1, v1 = _load_tile(k, v, table, keys1, end, columns, in_head, PAGE, KV_PAGE, KV_TOKEN)
        keys2 = start + 2 * BLOCK_N + row
        k2, v2 = _load_tile(k, v, table, keys2, end, columns, in_head, PAGE, KV_PAGE, KV_TOKEN)
        keys3 = start + 3 * BLOCK_N + row
        k3, v3 = _load_tile(k, v, table, keys3, end, columns, in_head, PAGE, KV_PAGE, KV_TOKEN)
        s0 = _score_tile(k0, query, keys0, kv_len, end, factor, bias, head, last_distance, BIAS)
        s1 = _score_tile(k1, query, keys1, kv_len, end, factor, bias, head, last_distance, BIAS)
        s2 = _score_tile(k2, query, keys2, kv_len, end, factor, bias, head, last_distance, BIAS)
        s3 = _score_tile(k3, query, keys3, kv_len, end, factor, bias, head, last_distance, BIAS)
        top = tl.maximum(highest, tl.maximum(tl.maximum(s0, s1), tl.maximum(s2, s3)))
        safe = tl.where(top == MINUS_INF, 0.0, top)  # of a row that has seen no key yet
        shrink = tl.exp2(highest - safe)
        w0, w1 = tl.exp2(s0 - safe), tl.exp2(s1 - safe)
        w2, w3 = tl.exp2(s2 - safe), tl.exp2(s3 - safe)
        total = total * shrink + ((w0 + w1) + (w2 + w3))
        highest = top
        part = w0.to(tl.float16)[:, None] * v0.to(tl.float16)
        part += w1.to(tl.float16)[:, None] * v1.to(tl.float16)
        part += w2.to(tl.float16)[:, None] * v2.to(tl.float16)
        part += w3.to(tl.float16)[:, None] * v3.to(tl.float16)
        sums = sums * shrink[:, None] + part.to(tl.float32)

    top = tl.max(highest, 0)
    weights = tl.exp2(highest - tl.where(top == MINUS_INF, 0.0, top))
    one = tl.arange(0, 1)  # makes blocks of one row of scalars
    finish(
        tl.sum(sums * weights[:, None], 0)[None, :],
        top + one * 0.0,
        tl.sum(total * weights, 0) + one * 0.0,
        out, partial, partial_lse, arrivals + sequence * HEADS + head,
        token + one, one < 1, head, split, splits, num_tokens,
        OUT_TOKEN, OUT_HEAD, HEADS, HEAD_DIM, D, SPLITS,
    )  # fmt: skip


@triton.jit
def _load_tile(
    k, v, table, keys, end, columns, in_head,
    PAGE: tl.constexpr, KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr,
):  # fmt: skip
    """Keys and values [BLOCK_N, D] of one head; zeros beyond `end`."""
    is_key = keys < end
    offsets = key_offsets(table, keys, is_key, PAGE, KV_PAGE, KV_TOKEN)[:, None] + columns
    mask = is_key[:, None] & in_head[None, :]
    return tl.load(k + offsets, mask=mask, other=0.0), tl.load(v + offsets, mask=mask, other=0.0)


@triton.jit
def _score_tile(
    tile, query, keys, kv_len, end, factor, bias, head, last_distance, BIAS: tl.constexpr
):
    """Scores [BLOCK_N] to base 2 of a tile's keys; minus infinity beyond `end`."""
    scores = tl.sum(tile.to(tl.float16) * query[None, :], 1).to(tl.float32) * factor
    if BIAS:
        distance = tl.minimum(tl.maximum(kv_len - 1 - keys, 0), last_distance)
        scores += tl.load(bias + head * (last_distance + 1) + distance) * LOG2_E
    return tl.where(keys < end, scores, MINUS_INF)
