"""The likeliest tokens of rows of beam searches, by Triton kernels, behind those of `sampling.py`.

    block_kernel    one program for each row and BLOCK tokens of the vocabulary: keeps the block's
                    likeliest tokens under the rules
    merge_kernel    one program per row: the likeliest of all blocks, with log-probabilities

Sums over the vocabulary are those that `scan_kernel` has left. `decoder/sampling/beams.py` has the
same in torch, which is the reference: some forty launches, and several passes over the logits.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from antiphon.kernels import sampling
from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.log_sums import MINUS_INF, likeliest
from antiphon.kernels.sampling import SampledState, Workspace
from antiphon.kernels.sampling_choice import (
    best_of_blocks,
    best_of_row,
    prescribed_token,
    raw_of_blocks,
)
from antiphon.kernels.sampling_scan import NONE, restricted_scores

SETTINGS = ("beams_by_whisper", "beams_renormalized")
LEAST_COUNT = 16  # up to so many candidates of a row the same kernel serves


def candidates(
    logits: torch.Tensor,
    rows: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    count: int,
    room: Workspace,
    state: SampledState,
) -> torch.Tensor:
    """[n, 3, count] int32: the likeliest tokens of n rows; the natural logarithms of their
    probabilities under the rules, as float32; and those under the raw logits. What is barred has
    minus infinity under the rules. Where the model prescribes a token, it has 0.

    `logits` [all rows, vocabulary]; of `rows` [n] int64, whose `slots` and `lengths` [n] are int64.
    `room`: as `sampling.greedy` has left it for the same logits. `state.settings` also has those of
    `SETTINGS`.
    """
    blocks = room.stats.shape[1]
    of_blocks = logits.new_empty(2, len(rows), blocks, count, dtype=torch.float32)
    out = torch.empty(len(rows), 3, count, dtype=torch.int32, device=logits.device)
    shared: dict[str, Any] = {
        "vocabulary": state.vocabulary,
        "count": count,
        "LOGITS_ROW": logits.stride(0),
        "BLOCKS": blocks,
        "ROOM": triton.next_power_of_2(blocks),
        **overlapped(logits.device),
    }
    block_kernel[(blocks, len(rows))](
        logits, state.masks, rows, slots, lengths, state.tokens, state.stop_ids,
        room.stats, room.ids_of_best, of_blocks[0], of_blocks[1].view(torch.int32),
        words=logits.shape[1], columns=state.tokens.shape[1],
        BLOCK=sampling.BLOCK, num_warps=8,
        **state.rule_constants(), **state.settings_named(sampling.SCAN_SETTINGS), **shared,
    )  # fmt: skip
    merge_kernel[(len(rows),)](
        logits, rows, slots, lengths, room.stats, room.ids_of_best,
        of_blocks[0], of_blocks[1].view(torch.int32), out, out.view(torch.float32),
        RULED=state.timestamps is not None,
        CANDIDATES=triton.next_power_of_2(blocks * max(count, LEAST_COUNT)), num_warps=4,
        **state.settings_named((*sampling.CHOICE_SETTINGS, *SETTINGS)), **shared,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["count"])
def block_kernel(
    logits, masks, rows, slots, lengths, tokens, stop_ids, stats, ids_of_best, scores,
    ids_of_scores, prompt_len, min_tokens, mask, begin_mask, timestamps, forced_first,
    vocabulary, words, columns, count,
    LOGITS_ROW: tl.constexpr, BLOCKS: tl.constexpr, ROOM: tl.constexpr,
    BLOCK: tl.constexpr, FIRST: tl.constexpr, MASK_ROW: tl.constexpr, STOPS: tl.constexpr,
    HISTORY: tl.constexpr, RULED: tl.constexpr, FIRST_TIME: tl.constexpr, LAST_TIME: tl.constexpr,
    NO_TIMES: tl.constexpr, END: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Writes `scores` and `ids_of_scores` [n, BLOCKS, count], likeliest first."""
    wait_for_previous(OVERLAP)
    block, asking = tl.program_id(0), tl.program_id(1)
    row = tl.load(rows + asking)
    ids = block * BLOCK + tl.arange(0, BLOCK)
    raw = tl.load(logits + row * LOGITS_ROW + ids, mask=ids < words, other=MINUS_INF)
    score, is_time, _ = restricted_scores(
        raw.to(tl.float32), ids, asking, masks, slots, lengths, tokens, stop_ids,
        prompt_len, min_tokens, mask, begin_mask, timestamps, forced_first,
        words, columns,
        FIRST, MASK_ROW, STOPS, HISTORY, RULED, FIRST_TIME, LAST_TIME, NO_TIMES, END,
    )  # fmt: skip
    if RULED:
        top_text, _, _ = best_of_blocks(stats, ids_of_best, row, vocabulary, 1, BLOCKS, ROOM)
        _, _, times = best_of_blocks(stats, ids_of_best, row, vocabulary, 2, BLOCKS, ROOM)
        lowest = tl.where(times > top_text, MINUS_INF, score)  # of text
        score = tl.where(is_time, score, lowest)
    first = (asking * BLOCKS + block) * count
    for i in range(count):
        best, token = likeliest(score, ids, vocabulary)
        tl.store(scores + first + i, best)
        tl.store(ids_of_scores + first + i, token)
        score = tl.where(ids == token, MINUS_INF, score)


@triton.jit(do_not_specialize=["count"])
def merge_kernel(
    logits, rows, slots, lengths, stats, ids_of_best, scores, ids_of_scores, out, out_floats,
    prompt_len, max_len, forced_first, forced_last, beams_by_whisper, beams_renormalized,
    vocabulary, count,
    LOGITS_ROW: tl.constexpr, BLOCKS: tl.constexpr, ROOM: tl.constexpr,
    RULED: tl.constexpr, CANDIDATES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Writes `out` [n, 3, count]."""
    wait_for_previous(OVERLAP)
    asking = tl.program_id(0)
    row = tl.load(rows + asking)
    slot = tl.load(slots + asking)
    _, of_all = raw_of_blocks(stats, row, BLOCKS, ROOM)
    _, _, together = best_of_row(stats, ids_of_best, row, vocabulary, RULED, BLOCKS, ROOM)
    is_normed = (tl.load(beams_by_whisper + slot) > 0) | (tl.load(beams_renormalized + slot) > 0)
    below = tl.where(is_normed, together, of_all)
    below = tl.where(below == MINUS_INF, 0.0, below)  # all may be barred
    length = tl.load(lengths + asking).to(tl.int32)
    prescribed = prescribed_token(slot, length, prompt_len, max_len, forced_first, forced_last)

    place = tl.arange(0, CANDIDATES)
    exists = place < BLOCKS * count
    own = asking * BLOCKS * count + place
    every = tl.load(scores + own, mask=exists, other=MINUS_INF)
    ids = tl.load(ids_of_scores + own, mask=exists, other=vocabulary)
    for i in range(count):
        best, token = likeliest(every, ids, vocabulary)
        every = tl.where(ids == token, MINUS_INF, every)
        best -= below
        if prescribed != NONE:
            token = tl.where(i == 0, prescribed, 0)
            best = tl.where(i == 0, 0.0, MINUS_INF)
        token = tl.where(token < vocabulary, token, 0)  # none is left, or none is a number
        chosen = tl.load(logits + row * LOGITS_ROW + token).to(tl.float32)
        first = asking * 3 * count + i
        tl.store(out + first, token)
        tl.store(out_floats + first + count, best)
        tl.store(out_floats + first + 2 * count, chosen - of_all)
