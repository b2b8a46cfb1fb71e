"""What kernels that read logits have in common: maxima and sums of exp(x - maximum), by parts."""

import triton
import triton.language as tl

MINUS_INF = tl.constexpr(float("-inf"))


@triton.jit
def sum_exp(x, top):
    """Sum of exp(x - top), where `top` is the maximum of `x`; 0 where all are -inf."""
    return tl.sum(tl.exp(x - tl.where(top == MINUS_INF, 0.0, top)), 0)


@triton.jit
def likeliest(scores, ids, vocabulary):
    """The largest of `scores`, and the lowest of its `ids`: `vocabulary` where no score
    is a number."""
    score = tl.max(scores, 0)
    return score, tl.min(tl.where(scores == score, ids, vocabulary), 0)


@triton.jit
def log_of(total, top):
    """top + log(total): of a sum of exp(x - top); -inf where nothing was summed."""
    return tl.where(total == 0.0, MINUS_INF, top + tl.log(tl.where(total == 0.0, 1.0, total)))


@triton.jit
def log_sum_exp(tops, sums):
    """Of parts with the maxima `tops` and the `sums` of `sum_exp`; -inf where all are."""
    top = tl.max(tops, 0)
    safe = tl.where(top == MINUS_INF, 0.0, top)
    return log_of(tl.sum(sums * tl.exp(tops - safe), 0), safe)
