"""Triton kernel for the log-probabilities of given tokens, and the likeliest ones."""

import torch
import triton
import triton.language as tl

MINUS_INF = tl.constexpr(float("-inf"))


@triton.jit
def _readout_kernel(
    logits, token_ids, logprobs, likeliest, vocabulary, LOGITS_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A program reads one row of logits, once, with a running sum (Milakov and Gimelshein 2018)."""
    row = tl.program_id(0)
    own = logits + row.to(tl.int64) * LOGITS_ROW
    best = tl.full([BLOCK], MINUS_INF, tl.float32)
    best_id = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)  # of exp(score - best)
    for start in range(0, vocabulary, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        score = tl.load(own + ids, mask=ids < vocabulary, other=MINUS_INF).to(tl.float32)
        top = tl.maximum(best, score)
        safe = tl.where(top == MINUS_INF, 0.0, top)
        total = total * tl.exp(best - safe) + tl.exp(score - safe)
        best_id = tl.where(score > best, ids, best_id)
        best = top
    peak = tl.max(best, 0)
    log_sum = peak + tl.log(tl.sum(total * tl.exp(best - peak), 0))
    token = tl.load(token_ids + row)
    known = (token >= 0) & (token < vocabulary)
    score = tl.load(own + token, mask=known, other=MINUS_INF).to(tl.float32)
    tl.store(logprobs + row, score - log_sum)
    tl.store(likeliest + row, tl.min(tl.where(best == peak, best_id, vocabulary), 0).to(tl.int64))


def read_out(
    logits: torch.Tensor, token_ids: torch.Tensor, logprobs: torch.Tensor, likeliest: torch.Tensor
) -> None:
    """Natural logarithms of the probabilities of `token_ids` [rows] int32 under `logits` [rows,
    vocabulary], into `logprobs` [rows] float32; minus infinity for what is no token. The likeliest
    tokens, into `likeliest` [rows] int64."""
    rows, vocabulary = logits.shape
    _readout_kernel[(rows,)](
        logits, token_ids, logprobs, likeliest, vocabulary,
        LOGITS_ROW=logits.stride(0), BLOCK=4096, num_warps=8,
    )  # fmt: skip
