"""Attention to paged keys and values on CPUs, in one pass with a running softmax (Numba)."""

import numba
import numpy as np
from numba import types
from numba.extending import overload

from antiphon.kernels.numba_cache import compiled


def widened(number):
    """In float32: of uint16 the bfloat16 of these bits, which Numba does not know."""
    raise NotImplementedError("for compiled code alone")


@overload(widened)
def _widened(number):
    if number == types.uint16:
        return lambda number: np.uint32(number << 16).view(np.float32)
    return lambda number: number


FAST = {"contract", "reassoc", "nsz", "arcp"}


@compiled(parallel=True, fastmath=FAST, nogil=True)
def attend(q, keys, values, pages, sequence, visible, groups, scale, bias, out):
    """Attention of each query to the first `visible` keys of its sequence.

    q, out [queries, heads, head_dim] float32; keys, values [pages, page_size, kv_heads,
    head_dim] float32, or bfloat16 as uint16, where head h of the queries reads head
    h // (heads / kv_heads); pages [sequences, pages]; sequence, visible [queries];
    groups [groups + 1]: bounds of neighbors among the queries that read the same pages,
    so that each page is loaded once for all of a group; bias [heads, distances], or empty.
    """
    heads, size = q.shape[1:]
    page_size, kv_heads = keys.shape[1], keys.shape[2]
    shared = heads // kv_heads
    for group in numba.prange(len(groups) - 1):
        first, count = groups[group], groups[group + 1] - groups[group]
        highest = np.full((count, heads), np.float32(-3.0e38), np.float32)
        total = np.zeros((count, heads), np.float32)
        sums = np.zeros((count, heads, size), np.float32)
        scores = np.empty(page_size, np.float32)
        longest = visible[first : first + count].max()
        for index in range((longest + page_size - 1) // page_size):
            page, begin = pages[sequence[first], index], index * page_size
            for kv_head in range(kv_heads):
                for row in range(count):
                    length = visible[first + row]
                    filled = max(0, min(page_size, length - begin))
                    for head in range(kv_head * shared, (kv_head + 1) * shared):
                        _score(q, first + row, head, keys, page, kv_head, filled, scale, scores)
                        if bias.shape[0]:
                            for token in range(filled):
                                scores[token] += bias[head, length - 1 - begin - token]
                        top = highest[row, head]
                        for token in range(filled):
                            top = max(top, scores[token])
                        shrink = np.exp(highest[row, head] - top)
                        highest[row, head] = top
                        weights = np.float32(0)
                        for token in range(filled):
                            scores[token] = np.exp(scores[token] - top)
                            weights += scores[token]
                        total[row, head] = total[row, head] * shrink + weights
                        _add(scores, filled, values, page, kv_head, shrink, sums, row, head)
        for row in range(count):
            for head in range(heads):
                for i in range(size):
                    out[first + row, head, i] = sums[row, head, i] / total[row, head]


@numba.njit(fastmath=FAST)
def _score(q, row, head, keys, page, kv_head, filled, scale, scores):
    """Four tokens at once: each number of the query is loaded once for them."""
    whole = filled // 4 * 4
    for token in range(0, whole, 4):
        a = b = c = d = np.float32(0)
        for i in range(q.shape[2]):
            number = q[row, head, i]
            a += number * widened(keys[page, token, kv_head, i])
            b += number * widened(keys[page, token + 1, kv_head, i])
            c += number * widened(keys[page, token + 2, kv_head, i])
            d += number * widened(keys[page, token + 3, kv_head, i])
        scores[token], scores[token + 1] = a * scale, b * scale
        scores[token + 2], scores[token + 3] = c * scale, d * scale
    for token in range(whole, filled):
        a = np.float32(0)
        for i in range(q.shape[2]):
            a += q[row, head, i] * widened(keys[page, token, kv_head, i])
        scores[token] = a * scale


@numba.njit(fastmath=FAST)
def _add(weights, filled, values, page, kv_head, shrink, sums, row, head):
    """Four tokens at once: each sum is loaded and stored once for them."""
    size, whole = sums.shape[2], filled // 4 * 4
    for i in range(size):
        sums[row, head, i] *= shrink
    for token in range(0, whole, 4):
        a, b = weights[token], weights[token + 1]
        c, d = weights[token + 2], weights[token + 3]
        for i in range(size):
            sums[row, head, i] += (
                a * widened(values[page, token, kv_head, i])
                + b * widened(values[page, token + 1, kv_head, i])
                + c * widened(values[page, token + 2, kv_head, i])
                + d * widened(values[page, token + 3, kv_head, i])
            )
    for token in range(whole, filled):
        a = weights[token]
        for i in range(size):
            sums[row, head, i] += a * widened(values[page, token, kv_head, i])
