"""Triton kernel for greedy decoding under the rules that most requests use.

One program per row, one pass over its logits. `decoder/sampling/restrictions.py` has the same rules
in torch, which are the reference: some sixty launches.
"""

# ruff: noqa: SIM102 (an `if` on a constant decides what is compiled, one on a value what is run)
from collections.abc import Mapping
from typing import Protocol

import torch
import triton
import triton.language as tl

from antiphon.kernels.launch import overlapped, wait_for_previous

MINUS_INF = tl.constexpr(float("-inf"))
NONE = tl.constexpr(-1)  # of a setting: off


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
def _greedy_kernel(
    logits, masks, slots, lengths, tokens, stop_ids, out,
    prompt_len, max_len, min_tokens, mask, begin_mask, timestamps, forced_first, forced_last,
    vocabulary, columns,
    LOGITS_ROW: tl.constexpr, MASK_ROW: tl.constexpr, STOPS: tl.constexpr,
    BLOCK: tl.constexpr, HISTORY: tl.constexpr, RULED: tl.constexpr,
    FIRST_TIME: tl.constexpr, LAST_TIME: tl.constexpr, NO_TIMES: tl.constexpr,
    END: tl.constexpr, LAST_INITIAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    length = tl.load(lengths + row)
    begin = tl.load(prompt_len + slot).to(tl.int32)
    generated = length - begin
    own_tokens = tokens + slot.to(tl.int64) * columns
    first = tl.load(forced_first + slot).to(tl.int32)
    free = tl.where(first != NONE, 1, 0)  # the first token that is not forced
    which = tl.where(generated == free, tl.load(begin_mask + slot), tl.load(mask + slot))
    early = generated < tl.load(min_tokens + slot)

    ruled = False
    if RULED:
        ruled = tl.load(timestamps + slot) > 0
        last = tl.load(own_tokens + tl.maximum(length - 1, 0))
        before = tl.load(own_tokens + tl.maximum(length - 2, 0))
        last_is_time = (generated >= 1) & (last >= FIRST_TIME) & (last <= LAST_TIME)
        pair_is_closed = (generated < 2) | ((before >= FIRST_TIME) & (before <= LAST_TIME))
        repeats = last_is_time & ~pair_is_closed
        latest = generated * 0 + (FIRST_TIME - 1)
        if ruled:
            for start in range(0, columns, HISTORY):
                index = start + tl.arange(0, HISTORY)
                is_written = (index >= begin) & (index < length)
                written = tl.load(own_tokens + index, mask=is_written, other=0).to(tl.int32)
                latest = tl.maximum(latest, tl.max(tl.where(written <= LAST_TIME, written, 0), 0))
        earliest = tl.where(latest < FIRST_TIME, FIRST_TIME, tl.where(repeats, latest, latest + 1))

    # The best score of every column of the blocks, and its token.
    text = tl.full([BLOCK], MINUS_INF, tl.float32)
    text_id = tl.zeros([BLOCK], tl.int32)
    time = tl.full([BLOCK], MINUS_INF, tl.float32)
    time_id = tl.zeros([BLOCK], tl.int32)
    time_sum = tl.zeros([BLOCK], tl.float32)  # of exp(score - time)
    for start in range(0, vocabulary, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        inside = ids < vocabulary
        score = tl.load(logits + row.to(tl.int64) * LOGITS_ROW + ids, mask=inside, other=MINUS_INF)
        score += tl.load(masks + which * MASK_ROW + ids, mask=inside, other=0.0)
        if early:
            for i in range(STOPS):
                score = tl.where(ids == tl.load(stop_ids + slot * STOPS + i), MINUS_INF, score)
        is_time = ids < 0
        if RULED:  # known when it is compiled
            if ruled:
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
                time_score = tl.where(is_time, score, MINUS_INF)
                top = tl.maximum(time, time_score)
                safe = tl.where(top == MINUS_INF, 0.0, top)
                time_sum = time_sum * tl.exp(time - safe) + tl.exp(time_score - safe)
                time_id = tl.where(time_score > time, ids, time_id)
                time = top
        text_score = tl.where(is_time, MINUS_INF, score)
        text_id = tl.where(text_score > text, ids, text_id)
        text = tl.maximum(text, text_score)

    best_text = tl.max(text, 0)
    token = tl.min(tl.where(text == best_text, text_id, vocabulary), 0)
    if RULED:
        best_time = tl.max(time, 0)
        safe = tl.where(best_time == MINUS_INF, 0.0, best_time)
        total = tl.sum(time_sum * tl.exp(tl.where(time == MINUS_INF, safe, time) - safe), 0)
        log_total = tl.log(tl.where(total > 0.0, total, 1.0))
        together = tl.where(total > 0.0, safe + log_total, MINUS_INF)
        time_token = tl.min(tl.where(time == best_time, time_id, vocabulary), 0)
        token = tl.where(ruled & (together > best_text), time_token, token)

    token = tl.where((generated == 0) & (first != NONE), first, token)
    final = tl.load(forced_last + slot).to(tl.int32)
    token = tl.where((length == tl.load(max_len + slot) - 1) & (final != NONE), final, token)
    tl.store(out + row, token.to(tl.int64))
    tl.store(own_tokens + length, token.to(tl.int64))


def greedy(
    logits: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    *,
    tokens: torch.Tensor,
    masks: torch.Tensor,
    stop_ids: torch.Tensor,
    settings: Mapping[str, torch.Tensor],
    timestamps: TimestampIds | None,
) -> None:
    """Writes every row's next token to `out` [rows] int64, and behind its sequence in `tokens`.

    `logits` [rows, vocabulary] float32; `slots`, `lengths` [rows] int32. By slot: `tokens` [slots,
    columns] int64, `stop_ids` [slots, n] int64, and `settings`, [slots] int64 each, under the names
    of the kernel's parameters. `masks` [masks, vocabulary] float32 are added to the logits.
    """
    rows, vocabulary = logits.shape
    rules = timestamps
    first = rules.first_id if rules is not None else 0
    initial = rules.max_initial if rules is not None else None
    _greedy_kernel[(rows,)](
        logits, masks, slots, lengths, tokens, stop_ids, out,
        vocabulary=vocabulary, columns=tokens.shape[1],
        LOGITS_ROW=logits.stride(0), MASK_ROW=masks.stride(0), STOPS=stop_ids.shape[1],
        BLOCK=4096, HISTORY=512, RULED=rules is not None, FIRST_TIME=first,
        LAST_TIME=min(rules.last_id, vocabulary) if rules is not None else 0,
        NO_TIMES=rules.no_timestamps_id if rules is not None else 0,
        END=rules.end_id if rules is not None else 0,
        LAST_INITIAL=vocabulary if initial is None else first + initial,
        num_warps=8, **settings, **overlapped(logits.device),
    )  # fmt: skip
