"""The kernel of sampling that reads the logits, once, under the rules that concern each
token by itself. `decoder/sampling/restrictions.py` has the same rules in torch, which
are the reference.
"""

import triton
import triton.language as tl

from antiphon.kernels.launch import wait_for_previous
from antiphon.kernels.log_sums import MINUS_INF, likeliest, sum_exp

NONE = tl.constexpr(-1)  # of a setting: off
STATS, IDS = tl.constexpr(6), tl.constexpr(2)  # numbers that a block keeps


@triton.jit
def restricted_scores(
    raw, place, row, masks, slots, lengths, tokens, stop_ids,
    prompt_len, min_tokens, mask, begin_mask, timestamps, forced_first,
    words, columns,
    FIRST: tl.constexpr, MASK_ROW: tl.constexpr, STOPS: tl.constexpr, HISTORY: tl.constexpr,
    RULED: tl.constexpr, FIRST_TIME: tl.constexpr, LAST_TIME: tl.constexpr,
    NO_TIMES: tl.constexpr, END: tl.constexpr,
):  # fmt: skip
    """Of `raw` logits of the words at `place`: their scores under the rules; which of them are
    timestamps that the rules know; and whether any rule may have changed a score."""
    ids = FIRST + place
    slot = tl.load(slots + row)
    length = tl.load(lengths + row)
    begin = tl.load(prompt_len + slot).to(tl.int32)
    generated = length - begin
    own_tokens = tokens + slot.to(tl.int64) * columns
    first = tl.load(forced_first + slot).to(tl.int32)
    free = tl.where(first != NONE, 1, 0)  # the first token that is not forced
    which = tl.where(generated == free, tl.load(begin_mask + slot), tl.load(mask + slot))
    early = generated < tl.load(min_tokens + slot)
    is_changed = early | (which != 0)
    # Row 0 of the masks adds nothing, and most models have no other.
    masked = tl.where(which != 0, place, words)
    own_mask = masks + which * MASK_ROW
    score = raw + tl.load(own_mask + masked, mask=masked < words, other=0.0)
    if early:
        for i in tl.static_range(STOPS):
            score = tl.where(ids == tl.load(stop_ids + slot * STOPS + i), MINUS_INF, score)

    is_time = ids < 0
    if RULED:  # known when it is compiled
        timestamp_setting = tl.load(timestamps + slot)
        ruled = timestamp_setting > 0
        is_changed = is_changed | ruled
        if ruled:
            last = tl.load(own_tokens + tl.maximum(length - 1, 0))
            before = tl.load(own_tokens + tl.maximum(length - 2, 0))
            last_is_time = (generated >= 1) & (last >= FIRST_TIME) & (last <= LAST_TIME)
            pair_is_closed = (generated < 2) | ((before >= FIRST_TIME) & (before <= LAST_TIME))
            repeats = last_is_time & ~pair_is_closed
            latest = generated * 0 + (FIRST_TIME - 1)
            for start in range(0, columns, HISTORY):
                index = start + tl.arange(0, HISTORY)
                is_written = (index >= begin) & (index < length)
                written = tl.load(own_tokens + index, mask=is_written, other=0).to(tl.int32)
                latest = tl.maximum(latest, tl.max(tl.where(written <= LAST_TIME, written, 0), 0))
            next_time = tl.where(repeats, latest, latest + 1)
            earliest = tl.where(latest < FIRST_TIME, FIRST_TIME, next_time)
            is_time = (ids >= FIRST_TIME) & (ids <= LAST_TIME)
            barred = (ids == NO_TIMES) | (
                is_time & ((last_is_time & pair_is_closed) | (ids < earliest))
            )
            barred = (
                barred
                | (((ids < END) | (ids > LAST_TIME)) & repeats)
                | ((generated == 0) & (~is_time | (ids >= FIRST_TIME + timestamp_setting)))
            )
            score = tl.where(barred, MINUS_INF, score)

    return score, is_time, is_changed


@triton.jit
def scan_kernel(
    logits, masks, slots, lengths, tokens, stop_ids, stats, ids_of_best,
    prompt_len, min_tokens, mask, begin_mask, timestamps, forced_first,
    vocabulary, words, columns,
    FIRST: tl.constexpr, LOGITS_ROW: tl.constexpr, MASK_ROW: tl.constexpr, STOPS: tl.constexpr,
    BLOCK: tl.constexpr, HISTORY: tl.constexpr, RULED: tl.constexpr, FIRST_TIME: tl.constexpr,
    LAST_TIME: tl.constexpr, NO_TIMES: tl.constexpr, END: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """The logits have `words` columns, for the tokens from number FIRST of the
    `vocabulary`. All rules speak of these numbers; only logits and masks are read by
    their place among the words."""
    wait_for_previous(OVERLAP)
    block, row = tl.program_id(0), tl.program_id(1)
    place = block * BLOCK + tl.arange(0, BLOCK)
    own_logits = logits + row.to(tl.int64) * LOGITS_ROW
    raw = tl.load(own_logits + place, mask=place < words, other=MINUS_INF).to(tl.float32)
    top_raw = tl.max(raw, 0)
    kept = row * tl.num_programs(0) + block
    sum_raw = sum_exp(raw, top_raw)
    tl.store(stats + kept * STATS, top_raw)
    tl.store(stats + kept * STATS + 1, sum_raw)

    ids = FIRST + place
    score, is_time, is_changed = restricted_scores(
        raw, place, row, masks, slots, lengths, tokens, stop_ids,
        prompt_len, min_tokens, mask, begin_mask, timestamps, forced_first,
        words, columns,
        FIRST, MASK_ROW, STOPS, HISTORY, RULED, FIRST_TIME, LAST_TIME, NO_TIMES, END,
    )  # fmt: skip
    text = tl.where(is_time, MINUS_INF, score)
    top_text, best_text = likeliest(text, ids, vocabulary)
    sum_text = sum_raw
    if is_changed:
        sum_text = sum_exp(text, top_text)
    tl.store(stats + kept * STATS + 2, top_text)
    tl.store(stats + kept * STATS + 3, sum_text)
    tl.store(ids_of_best + kept * IDS, best_text)
    if RULED:
        time = tl.where(is_time, score, MINUS_INF)
        top_time, best_time = likeliest(time, ids, vocabulary)
        tl.store(stats + kept * STATS + 4, top_time)
        tl.store(stats + kept * STATS + 5, sum_exp(time, top_time))
        tl.store(ids_of_best + kept * IDS + 1, best_time)
