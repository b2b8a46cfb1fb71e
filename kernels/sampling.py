"""Triton kernels for greedy decoding under the rules that most requests use, with the
log-probability of the token.

    _scan_kernel    one program for each row and BLOCK tokens of the vocabulary: reads the logits,
                    once, and keeps what the row needs of its block
    _join_kernel    one program per row: joins its blocks, chooses the token and writes it

A block keeps a maximum and the sum of exp(x - maximum), three times: of the raw logits, and of the
restricted scores of text and of timestamps apart. `decoder/sampling/restrictions.py` has the same
rules in torch, which are the reference: some sixty launches.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import triton
import triton.language as tl

from antiphon.kernels.launch import overlapped, wait_for_previous

BLOCK = 4096  # tokens of one program
MINUS_INF = tl.constexpr(float("-inf"))
NONE = tl.constexpr(-1)  # of a setting: off
STATS, IDS = tl.constexpr(6), tl.constexpr(2)  # numbers that a block keeps
_SCAN_SETTINGS = ("prompt_len", "min_tokens", "mask", "begin_mask", "timestamps", "forced_first")
_JOIN_SETTINGS = ("prompt_len", "max_len", "forced_first", "forced_last", "ranked")


class TimestampIds(Protocol):
    """The numbers of Whisper's timestamp rules (`config/decoding_rules.py : TimestampRules`)."""

    @property
    def first_id(self) -> int: ...
    @property
    def last_id(self) -> int: ...
    @property
    def no_timestamps_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def max_initial(self) -> int | None: ...


@triton.jit
def _sum_exp(x, top):
    """Sum of exp(x - top), where `top` is the maximum of `x`; 0 where all are -inf."""
    return tl.sum(tl.exp(x - tl.where(top == MINUS_INF, 0.0, top)), 0)


@triton.jit
def _log_sum_exp(tops, sums):
    """Of blocks with the maxima `tops` and the `sums` of `_sum_exp`; -inf where all are."""
    top = tl.max(tops, 0)
    safe = tl.where(top == MINUS_INF, 0.0, top)
    total = tl.sum(sums * tl.exp(tops - safe), 0)
    return tl.where(total > 0.0, safe + tl.log(tl.where(total > 0.0, total, 1.0)), MINUS_INF)


@triton.jit
def _scan_kernel(
    logits, masks, slots, lengths, tokens, stop_ids, stats, ids_of_best,
    prompt_len, min_tokens, mask, begin_mask, timestamps, forced_first,
    vocabulary, columns,
    LOGITS_ROW: tl.constexpr, MASK_ROW: tl.constexpr, STOPS: tl.constexpr, BLOCK: tl.constexpr,
    HISTORY: tl.constexpr, RULED: tl.constexpr, FIRST_TIME: tl.constexpr,
    LAST_TIME: tl.constexpr, NO_TIMES: tl.constexpr, END: tl.constexpr,
    LAST_INITIAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    block, row = tl.program_id(0), tl.program_id(1)
    ids = block * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocabulary
    raw = tl.load(logits + row.to(tl.int64) * LOGITS_ROW + ids, mask=inside, other=MINUS_INF)
    top_raw = tl.max(raw, 0)
    kept = row * tl.num_programs(0) + block
    sum_raw = _sum_exp(raw, top_raw)
    tl.store(stats + kept * STATS, top_raw)
    tl.store(stats + kept * STATS + 1, sum_raw)

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
    masked = tl.where(which != 0, ids, vocabulary)
    own_mask = masks + which * MASK_ROW
    score = raw + tl.load(own_mask + masked, mask=masked < vocabulary, other=0.0)
    if early:
        for i in range(STOPS):
            score = tl.where(ids == tl.load(stop_ids + slot * STOPS + i), MINUS_INF, score)

    is_time = ids < 0
    if RULED:  # known when it is compiled
        ruled = tl.load(timestamps + slot) > 0
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
                | ((generated == 0) & (~is_time | (ids > LAST_INITIAL)))
            )
            score = tl.where(barred, MINUS_INF, score)

    text = tl.where(is_time, MINUS_INF, score)
    top_text = tl.max(text, 0)
    sum_text = sum_raw
    if is_changed:
        sum_text = _sum_exp(text, top_text)
    tl.store(stats + kept * STATS + 2, top_text)
    tl.store(stats + kept * STATS + 3, sum_text)
    tl.store(ids_of_best + kept * IDS, tl.min(tl.where(text == top_text, ids, vocabulary), 0))
    if RULED:
        time = tl.where(is_time, score, MINUS_INF)
        top_time = tl.max(time, 0)
        tl.store(stats + kept * STATS + 4, top_time)
        tl.store(stats + kept * STATS + 5, _sum_exp(time, top_time))
        best = tl.min(tl.where(time == top_time, ids, vocabulary), 0)
        tl.store(ids_of_best + kept * IDS + 1, best)


@triton.jit
def _join_kernel(
    logits, stats, ids_of_best, slots, lengths, tokens, out, out_floats,
    prompt_len, max_len, forced_first, forced_last, ranked,
    vocabulary, columns,
    LOGITS_ROW: tl.constexpr, BLOCKS: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr,
    RULED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0)
    block = tl.arange(0, ROOM)
    exists = block < BLOCKS
    kept = row * BLOCKS + block
    of_block, best = stats + kept * STATS, ids_of_best + kept * IDS
    raw = tl.load(of_block, mask=exists, other=MINUS_INF)
    of_all = _log_sum_exp(raw, tl.load(of_block + 1, mask=exists, other=0.0))
    text = tl.load(of_block + 2, mask=exists, other=MINUS_INF)
    together = _log_sum_exp(text, tl.load(of_block + 3, mask=exists, other=0.0))
    score = tl.max(text, 0)
    text_ids = tl.load(best, mask=exists, other=vocabulary)
    token = tl.min(tl.where(text == score, text_ids, vocabulary), 0)
    if RULED:
        time = tl.load(of_block + 4, mask=exists, other=MINUS_INF)
        times = _log_sum_exp(time, tl.load(of_block + 5, mask=exists, other=0.0))
        top_time = tl.max(time, 0)
        time_ids = tl.load(best + 1, mask=exists, other=vocabulary)
        time_token = tl.min(tl.where(time == top_time, time_ids, vocabulary), 0)
        takes_time = times > score
        # Where timestamps are together likelier than any text, no text is left.
        higher = tl.maximum(tl.maximum(together, times), -1e30)
        both = higher + tl.log(tl.exp(together - higher) + tl.exp(times - higher))
        together = tl.where(takes_time, times, both)
        token = tl.where(takes_time, time_token, token)
        score = tl.where(takes_time, top_time, score)

    slot = tl.load(slots + row)
    length = tl.load(lengths + row)
    first = tl.load(forced_first + slot).to(tl.int32)
    final = tl.load(forced_last + slot).to(tl.int32)
    is_first = (length == tl.load(prompt_len + slot)) & (first != NONE)
    is_final = (length == tl.load(max_len + slot) - 1) & (final != NONE)
    token = tl.where(is_final, final, tl.where(is_first, first, token))
    token = tl.where(token < vocabulary, token, 0)  # logits that are no numbers have no largest one
    own_logits = logits + row.to(tl.int64) * LOGITS_ROW
    chosen = tl.load(own_logits + token)
    rank = length * 0
    if tl.load(ranked + slot) > 0:
        rank += 1
        if chosen < tl.max(raw, 0):
            above = tl.zeros([BLOCK], tl.int32)
            for start in range(0, vocabulary, BLOCK):
                ids = start + tl.arange(0, BLOCK)
                other = tl.load(own_logits + ids, mask=ids < vocabulary, other=MINUS_INF)
                above += (other > chosen).to(tl.int32)
            rank += tl.sum(above, 0)

    tl.store(tokens + slot.to(tl.int64) * columns + length, token)
    tl.store(out + row * 3, token)
    tl.store(out_floats + row * 6 + 2, chosen - of_all)
    of_allowed = tl.where(together == MINUS_INF, 0.0, together)  # all may be barred
    tl.store(out_floats + row * 6 + 3, tl.where(is_first | is_final, 0.0, score - of_allowed))
    tl.store(out + row * 3 + 2, rank)


Workspace = tuple[torch.Tensor, torch.Tensor]


def workspace(rows: int, vocabulary: int, device: torch.device) -> Workspace:
    """Where the blocks of up to `rows` rows leave what they keep."""
    blocks = triton.cdiv(vocabulary, BLOCK)
    stats = torch.zeros(rows, blocks, STATS.value, device=device)
    return stats, torch.zeros(rows, blocks, IDS.value, dtype=torch.int32, device=device)


def greedy(
    logits: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    room: Workspace,
    *,
    tokens: torch.Tensor,
    masks: torch.Tensor,
    stop_ids: torch.Tensor,
    settings: Mapping[str, torch.Tensor],
    timestamps: TimestampIds | None,
) -> None:
    """Chooses every row's next token, and writes it behind its sequence in `tokens`.

    `out` [rows, 3] int64 gets the token; the natural logarithms of its probability under the raw
    logits and under the restricted ones, as two float32; and its rank from 1 among the raw logits,
    for the slots whose setting "ranked" is not 0 (else 0). A forced token has the restricted
    log-probability 0.

    `logits` [rows, vocabulary] float32; `slots`, `lengths` [rows] int32; `room` of `workspace`. By
    slot: `tokens` [slots, columns] int64, `stop_ids` [slots, n] int64, and `settings`, [slots]
    int64 each, under the names of the kernels' parameters. `masks` [masks, vocabulary] float32 are
    added to the logits; row 0 holds zeros.
    """
    rows, vocabulary = logits.shape
    stats, ids_of_best = room
    blocks = stats.shape[1]
    rules = timestamps
    first = rules.first_id if rules is not None else 0
    initial = rules.max_initial if rules is not None else None
    shared = {"LOGITS_ROW": logits.stride(0), "BLOCK": BLOCK, "RULED": rules is not None}
    _scan_kernel[(blocks, rows)](
        logits, masks, slots, lengths, tokens, stop_ids, stats, ids_of_best,
        vocabulary=vocabulary, columns=tokens.shape[1],
        MASK_ROW=masks.stride(0), STOPS=stop_ids.shape[1], HISTORY=512, FIRST_TIME=first,
        LAST_TIME=min(rules.last_id, vocabulary) if rules is not None else 0,
        NO_TIMES=rules.no_timestamps_id if rules is not None else 0,
        END=rules.end_id if rules is not None else 0,
        LAST_INITIAL=vocabulary if initial is None else first + initial,
        num_warps=8, **shared, **{name: settings[name] for name in _SCAN_SETTINGS},
        **overlapped(logits.device),
    )  # fmt: skip
    _join_kernel[(rows,)](
        logits, stats, ids_of_best, slots, lengths, tokens, out, out.view(torch.float32),
        vocabulary=vocabulary, columns=tokens.shape[1],
        BLOCKS=blocks, ROOM=triton.next_power_of_2(blocks), num_warps=4,
        **shared, **{name: settings[name] for name in _JOIN_SETTINGS},
        **overlapped(logits.device),
    )  # fmt: skip
