"""Triton kernels for the log-probabilities of given tokens, and the likeliest ones."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from antiphon.kernels import formats
from antiphon.kernels.log_sums import MINUS_INF, likeliest, log_of, log_sum_exp

READOUT_NUMBERS = tl.constexpr(formats.READOUT_NUMBERS)


@triton.jit
def _readout_kernel(
    logits, token_ids, logprobs, tokens, numbers, words,
    FIRST: tl.constexpr, LOGITS_ROW: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """A program reads one row of logits, once, with a running sum (Milakov and Gimelshein 2018).

    The logits are those of `words` tokens from number FIRST. If SHARED, other ranks
    have others, and `numbers` get what they must know of the row; else its results go
    to where they belong.
    """
    row = tl.program_id(0)
    own = logits + row.to(tl.int64) * LOGITS_ROW
    best = tl.full([BLOCK], MINUS_INF, tl.float32)
    best_place = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)  # of exp(score - best)
    for start in range(0, words, BLOCK):
        places = start + tl.arange(0, BLOCK)
        score = tl.load(own + places, mask=places < words, other=MINUS_INF).to(tl.float32)
        top = tl.maximum(best, score)
        safe = tl.where(top == MINUS_INF, 0.0, top)
        total = total * tl.exp(best - safe) + tl.exp(score - safe)
        best_place = tl.where(score > best, places, best_place)
        best = top
    peak, place = likeliest(best, best_place, words)
    safe = tl.where(peak == MINUS_INF, 0.0, peak)
    log_sum = log_of(tl.sum(total * tl.exp(best - safe), 0), safe)
    place_of_token = tl.load(token_ids + row) - FIRST
    is_own = (place_of_token >= 0) & (place_of_token < words)
    score = tl.load(own + place_of_token, mask=is_own, other=MINUS_INF).to(tl.float32)
    if SHARED:
        own_numbers = numbers + row * READOUT_NUMBERS
        tl.store(own_numbers, log_sum)
        tl.store(own_numbers + 1, score)
        tl.store(own_numbers + 2, peak)
        tl.store(own_numbers + 3, (FIRST + place).to(tl.float32))
    else:
        tl.store(logprobs + row, score - log_sum)
        tl.store(tokens + row, place.to(tl.int64))


@triton.jit
def _join_readouts_kernel(
    numbers, logprobs, tokens, vocabulary, RANKS: tl.constexpr, ROOM: tl.constexpr
):  # fmt: skip
    """A program has one row of the `numbers` [RANKS, rows, READOUT_NUMBERS] of every rank."""
    row, rank = tl.program_id(0), tl.arange(0, ROOM)
    exists = rank < RANKS
    own = numbers + (rank * tl.num_programs(0) + row) * READOUT_NUMBERS
    log_sums = tl.load(own, mask=exists, other=MINUS_INF)
    score = tl.max(tl.load(own + 1, mask=exists, other=MINUS_INF), 0)
    tops = tl.load(own + 2, mask=exists, other=MINUS_INF)
    ids = tl.load(own + 3, mask=exists, other=vocabulary).to(tl.int32)
    _, token = likeliest(tops, ids, vocabulary)
    tl.store(logprobs + row, score - log_sum_exp(log_sums, exists.to(tl.float32)))
    tl.store(tokens + row, token.to(tl.int64))


def read_out(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    logprobs: torch.Tensor,
    likeliest: torch.Tensor,
    first_id: int = 0,
    vocabulary: int | None = None,
    all_gather: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Natural logarithms of the probabilities of `token_ids` [rows] int32 under
    `logits` [rows, words], into `logprobs` [rows] float32; minus infinity for what is
    no token. The likeliest tokens, into `likeliest` [rows] int64.

    Where ranks share the `vocabulary`, `logits` are those of the tokens from
    `first_id`, and `all_gather` makes [ranks, rows, READOUT_NUMBERS] of every rank's
    numbers.
    """
    rows, words = logits.shape
    is_shared = all_gather is not None
    # Alone, nothing is written there.
    numbers = logprobs.new_empty(rows, READOUT_NUMBERS.value) if is_shared else logprobs
    _readout_kernel[(rows,)](
        logits, token_ids, logprobs, likeliest, numbers, words, FIRST=first_id,
        LOGITS_ROW=logits.stride(0), BLOCK=4096, SHARED=is_shared, num_warps=8,
    )  # fmt: skip
    if all_gather is None:
        return
    gathered = all_gather(numbers).contiguous()
    _join_readouts_kernel[(rows,)](
        gathered, logprobs, likeliest, vocabulary, RANKS=len(gathered),
        ROOM=triton.next_power_of_2(len(gathered)), num_warps=1,
    )  # fmt: skip
