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


@compiled(parallel=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, nogil=True)
def attend(q, keys, values, pages, sequence, visible, scale, bias, out):
    """Attention of each query to the first `visible` keys of its sequence.

    q, out [queries, heads, head_dim] float32; keys, values [pages, page_size, kv_heads,
    head_dim] float32, or bfloat16 as uint16, where head h of the queries reads head
    h // (heads / kv_heads); pages [sequences, pages]; sequence, visible [queries]; bias
    [heads, distances], or empty.
    """
    num_queries, heads, size = q.shape
    page_size, kv_heads = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    for row in numba.prange(num_queries):
        length = visible[row]
        highest = np.full(heads, np.float32(-3.0e38), np.float32)
        total = np.zeros(heads, np.float32)
        sums = np.zeros((heads, size), np.float32)
        scores = np.empty((heads, page_size), np.float32)
        for index in range((length + page_size - 1) // page_size):
            page = pages[sequence[row], index]
            filled = min(page_size, length - index * page_size)
            for token in range(filled):
                for kv_head in range(kv_heads):
                    for head in range(kv_head * group, (kv_head + 1) * group):
                        product = np.float32(0)
                        for i in range(size):
                            product += q[row, head, i] * widened(keys[page, token, kv_head, i])
                        scores[head, token] = product * scale
            if bias.shape[0]:
                for head in range(heads):
                    for token in range(filled):
                        scores[head, token] += bias[head, length - 1 - index * page_size - token]
            for head in range(heads):
                top = highest[head]
                for token in range(filled):
                    top = max(top, scores[head, token])
                shrink = np.exp(highest[head] - top)
                highest[head] = top
                total[head] *= shrink
                for i in range(size):
                    sums[head, i] *= shrink
                for token in range(filled):
                    weight = np.exp(scores[head, token] - top)
                    scores[head, token] = weight
                    total[head] += weight
            for token in range(filled):
                for kv_head in range(kv_heads):
                    for head in range(kv_head * group, (kv_head + 1) * group):
                        weight = scores[head, token]
                        for i in range(size):
                            sums[head, i] += weight * widened(values[page, token, kv_head, i])
        for head in range(heads):
            for i in range(size):
                out[row, head, i] = sums[head, i] / total[head]
