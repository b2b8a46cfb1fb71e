"""The softmax of scores that come tile by tile (online softmax, Milakov and Gimelshein 2018)."""

import triton
import triton.language as tl


@triton.jit
def softmax_step(scores, highest, total):
    """Weights of the next tile's `scores` [rows, keys], in powers of two; by what all that was
    summed before shrinks; and the new highest scores and sums of weights, all three [rows]. Each
    row has a finite score by now."""
    top = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2(scores - top[:, None])
    shrink = tl.exp2(highest - top)
    return weights, shrink, top, total * shrink + tl.sum(weights, 1)
