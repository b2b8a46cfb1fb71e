"""The kernels of sampling that choose tokens: from the blocks of `sampling_scan.py`,
or, where ranks share the vocabulary, from what every rank says of its own blocks. A
program has one row.

`decoder/sampling/partial_choice.py` has the second choice in torch, which is the reference.
"""

import triton
import triton.language as tl

from antiphon.kernels import formats
from antiphon.kernels.launch import wait_for_previous
from antiphon.kernels.log_sums import MINUS_INF, likeliest, log_of, log_sum_exp
from antiphon.kernels.sampling_scan import IDS, NONE, STATS

ROW_NUMBERS, RAW_SUM = tl.constexpr(formats.ROW_NUMBERS), tl.constexpr(formats.RAW_SUM)
PRESCRIBED = tl.constexpr(formats.PRESCRIBED)
TEXT, TIME = tl.constexpr(formats.TEXT), tl.constexpr(formats.TIME)


@triton.jit
def prescribed_token(slot, length, prompt_len, max_len, forced_first, forced_last):
    """The token that the model prescribes behind `length` tokens, or NONE."""
    first = tl.load(forced_first + slot).to(tl.int32)
    final = tl.load(forced_last + slot).to(tl.int32)
    token = tl.where(length == tl.load(prompt_len + slot), first, NONE)
    is_final = (length == tl.load(max_len + slot) - 1) & (final != NONE)
    return tl.where(is_final, final, token)


@triton.jit
def _text_or_time(score, token, together, top_time, time_token, times):
    """Whether a timestamp comes next, and the log-sum-exp of what is then allowed:
    timestamps are taken where they are together likelier than any text, and no text is
    left there.

    Of text and of timestamps: the largest score, its lowest token, and log-sum-exp.
    """
    only_times = times > score
    is_tie = (top_time == score) & (time_token < token) & (top_time > MINUS_INF)
    higher = tl.maximum(tl.maximum(together, times), -1e30)
    both = log_of(tl.exp(together - higher) + tl.exp(times - higher), higher)
    return only_times | is_tie, tl.where(only_times, times, both)


@triton.jit
def best_of_blocks(
    stats,
    ids_of_best,
    row,
    vocabulary,
    KIND: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROOM: tl.constexpr,
):
    """Of a row's text (KIND 1) or timestamps (2): the largest score, its lowest token,
    and log-sum-exp."""
    block = tl.arange(0, ROOM)
    exists = block < BLOCKS
    kept = row * BLOCKS + block
    of_kind = stats + kept * STATS + 2 * KIND
    tops = tl.load(of_kind, mask=exists, other=MINUS_INF)
    sums = tl.load(of_kind + 1, mask=exists, other=0.0)
    ids = tl.load(ids_of_best + kept * IDS + KIND - 1, mask=exists, other=vocabulary)
    score, token = likeliest(tops, ids, vocabulary)
    return score, token, log_sum_exp(tops, sums)


@triton.jit
def best_of_row(
    stats,
    ids_of_best,
    row,
    vocabulary,
    RULED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROOM: tl.constexpr,
):
    """The score of the row's next token by the rules of text and timestamps, the token, and
    log-sum-exp of what is then allowed."""
    score, token, together = best_of_blocks(stats, ids_of_best, row, vocabulary, 1, BLOCKS, ROOM)
    if RULED:
        top_time, time_token, times = best_of_blocks(
            stats, ids_of_best, row, vocabulary, 2, BLOCKS, ROOM
        )
        takes_time, together = _text_or_time(score, token, together, top_time, time_token, times)
        token = tl.where(takes_time, time_token, token)
        score = tl.where(takes_time, top_time, score)
    return score, token, together


@triton.jit
def raw_of_blocks(stats, row, BLOCKS: tl.constexpr, ROOM: tl.constexpr):
    """Of a row's raw logits: the largest, and log-sum-exp."""
    block = tl.arange(0, ROOM)
    of_block = stats + (row * BLOCKS + block) * STATS
    tops = tl.load(of_block, mask=block < BLOCKS, other=MINUS_INF)
    sums = tl.load(of_block + 1, mask=block < BLOCKS, other=0.0)
    return tl.max(tops, 0), log_sum_exp(tops, sums)


@triton.jit
def _append(row, slot, length, token, columns, tokens, out, out_floats, logprob, score, sum_, rank):
    """Writes a row's token behind its sequence, and a row of `Samples`."""
    tl.store(tokens + slot.to(tl.int64) * columns + length, token)
    tl.store(out + row * 3, token)
    tl.store(out_floats + row * 6 + 2, logprob)
    of_allowed = tl.where(sum_ == MINUS_INF, 0.0, sum_)  # all may be barred
    tl.store(out_floats + row * 6 + 3, score - of_allowed)
    tl.store(out + row * 3 + 2, rank)


@triton.jit
def join_kernel(
    logits, stats, ids_of_best, slots, lengths, tokens, out, out_floats,
    prompt_len, max_len, forced_first, forced_last, ranked,
    vocabulary, columns,
    LOGITS_ROW: tl.constexpr, BLOCKS: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr,
    RULED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Chooses from the blocks of the whole vocabulary."""
    wait_for_previous(OVERLAP)
    row = tl.program_id(0)
    top_raw, of_all = raw_of_blocks(stats, row, BLOCKS, ROOM)
    score, token, together = best_of_row(stats, ids_of_best, row, vocabulary, RULED, BLOCKS, ROOM)

    slot = tl.load(slots + row)
    length = tl.load(lengths + row)
    prescribed = prescribed_token(slot, length, prompt_len, max_len, forced_first, forced_last)
    is_forced = prescribed != NONE
    token = tl.where(is_forced, prescribed, token)
    token = tl.where(token < vocabulary, token, 0)  # logits that are no numbers have no largest one
    own_logits = logits + row.to(tl.int64) * LOGITS_ROW
    chosen = tl.load(own_logits + token).to(tl.float32)
    rank = length * 0
    if tl.load(ranked + slot) > 0:
        rank += 1
        if chosen < top_raw:
            above = tl.zeros([BLOCK], tl.int32)
            for start in range(0, vocabulary, BLOCK):
                ids = start + tl.arange(0, BLOCK)
                other = tl.load(own_logits + ids, mask=ids < vocabulary, other=MINUS_INF)
                above += (other.to(tl.float32) > chosen).to(tl.int32)
            rank += tl.sum(above, 0)
    score, together = tl.where(is_forced, 0.0, score), tl.where(is_forced, 0.0, together)
    _append(
        row, slot, length, token, columns, tokens, out, out_floats, chosen - of_all, score,
        together, rank,
    )  # fmt: skip


@triton.jit
def _logit_of(own_logits, token, FIRST, words):
    """The raw logit of `token`; minus infinity where that is none of the own words."""
    is_own = (token >= FIRST) & (token < FIRST + words)
    return tl.load(own_logits + (token - FIRST), mask=is_own, other=MINUS_INF).to(tl.float32)


@triton.jit
def _store_best(best, score, token, raw, log_sum):
    tl.store(best, score)
    tl.store(best + 1, token.to(tl.float32))
    tl.store(best + 2, raw)
    tl.store(best + 3, log_sum)


@triton.jit
def describe_kernel(
    logits, stats, ids_of_best, slots, lengths, numbers,
    prompt_len, max_len, forced_first, forced_last,
    vocabulary, words,
    FIRST: tl.constexpr, LOGITS_ROW: tl.constexpr, BLOCKS: tl.constexpr, ROOM: tl.constexpr,
    RULED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Folds the blocks of a rank's own words into ROW_NUMBERS `numbers` a row."""
    wait_for_previous(OVERLAP)
    row = tl.program_id(0)
    own, own_logits = numbers + row * ROW_NUMBERS, logits + row.to(tl.int64) * LOGITS_ROW
    _, of_all = raw_of_blocks(stats, row, BLOCKS, ROOM)
    prescribed = prescribed_token(
        tl.load(slots + row), tl.load(lengths + row), prompt_len, max_len, forced_first, forced_last
    )
    tl.store(own + RAW_SUM, of_all)
    tl.store(own + PRESCRIBED, _logit_of(own_logits, prescribed, FIRST, words))
    score, token, log_sum = best_of_blocks(stats, ids_of_best, row, vocabulary, 1, BLOCKS, ROOM)
    raw = _logit_of(own_logits, token, FIRST, words)
    _store_best(own + TEXT, score, token, raw, log_sum)
    if RULED:
        score, token, log_sum = best_of_blocks(stats, ids_of_best, row, vocabulary, 2, BLOCKS, ROOM)
        raw = _logit_of(own_logits, token, FIRST, words)
        _store_best(own + TIME, score, token, raw, log_sum)


@triton.jit
def _of_ranks(best, exists, vocabulary):
    """Of every rank's best text or timestamp, at `best` [ranks]: the largest score, its
    lowest token, the raw logit of that token, and log-sum-exp."""
    scores = tl.load(best, mask=exists, other=MINUS_INF)
    ids = tl.load(best + 1, mask=exists, other=vocabulary).to(tl.int32)
    score, token = likeliest(scores, ids, vocabulary)
    raw = tl.load(best + 2, mask=exists, other=MINUS_INF)
    chosen = tl.max(tl.where((scores == score) & (ids == token), raw, MINUS_INF), 0)
    sums = tl.load(best + 3, mask=exists, other=MINUS_INF)
    return score, token, chosen, log_sum_exp(sums, exists.to(tl.float32))


@triton.jit
def choose_kernel(
    numbers, slots, lengths, tokens, out, out_floats,
    prompt_len, max_len, forced_first, forced_last,
    vocabulary, columns,
    RANKS: tl.constexpr, ROOM: tl.constexpr, RULED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Chooses from the `numbers` [RANKS, rows, ROW_NUMBERS] of every rank."""
    wait_for_previous(OVERLAP)
    row, rank = tl.program_id(0), tl.arange(0, ROOM)
    exists = rank < RANKS
    own = numbers + (rank * tl.num_programs(0) + row) * ROW_NUMBERS
    raw_sums = tl.load(own + RAW_SUM, mask=exists, other=MINUS_INF)
    of_all = log_sum_exp(raw_sums, exists.to(tl.float32))
    score, token, chosen, together = _of_ranks(own + TEXT, exists, vocabulary)
    if RULED:
        top_time, time_token, time_raw, times = _of_ranks(own + TIME, exists, vocabulary)
        takes_time, together = _text_or_time(score, token, together, top_time, time_token, times)
        token = tl.where(takes_time, time_token, token)
        score = tl.where(takes_time, top_time, score)
        chosen = tl.where(takes_time, time_raw, chosen)

    slot = tl.load(slots + row)
    length = tl.load(lengths + row)
    prescribed = prescribed_token(slot, length, prompt_len, max_len, forced_first, forced_last)
    is_forced = prescribed != NONE
    prescribed_raw = tl.max(tl.load(own + PRESCRIBED, mask=exists, other=MINUS_INF), 0)
    token = tl.where(is_forced, prescribed, token)
    token = tl.where(token < vocabulary, token, 0)  # logits that are no numbers have no largest one
    chosen = tl.where(is_forced, prescribed_raw, chosen)
    score, together = tl.where(is_forced, 0.0, score), tl.where(is_forced, 0.0, together)
    _append(
        row, slot, length, token, columns, tokens, out, out_floats, chosen - of_all, score,
        together, length * 0,
    )  # fmt: skip
