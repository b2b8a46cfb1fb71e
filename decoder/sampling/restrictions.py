"""Rules that say which tokens are possible, whatever was written: masks, least lengths, Whisper's
timestamps, forced tokens. They read settings on the device alone, so that a captured graph can hold
them; on a GPU it holds the same rules as one kernel, `kernels/sampling.py`.

Each takes logits [rows, vocabulary] float32 and returns new ones, unless it says otherwise.
"""

from typing import NamedTuple

import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.rows import SampledRows
from antiphon.decoder.sampling.settings import OFF

MINUS_INF = float("-inf")


def apply_masks(logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """Suppressed, allowed and biased tokens. The first token that is not forced has a mask of its
    own, as in transformers."""
    first_free = (rows.setting("forced_first") != OFF).long()
    is_first = rows.generated == first_free
    mask = torch.where(is_first, rows.setting("begin_mask"), rows.setting("mask"))
    return logits + rows.state.masks.rows[mask]


def bar_stop_tokens(logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """No stop token before `min_tokens` are generated."""
    early = (rows.generated < rows.setting("min_tokens"))[:, None]
    stop_ids = rows.state.stop_ids[rows.slots]
    barred = torch.where(early & (stop_ids != OFF), MINUS_INF, 0.0)
    return logits.scatter_add(1, stop_ids.clamp(min=0), barred)  # unused ids add 0 to token 0


def apply_timestamp_rules(
    logits: torch.Tensor, rows: SampledRows, rules: TimestampRules
) -> torch.Tensor:
    """Timestamps come in pairs, never decrease, and are taken when they are together likelier than
    any text token. For the rows that ask for it.

    By ranges of ids: what concerns timestamps alone then costs a few hundred numbers a row.
    """
    asks, barred = rows.setting("timestamps") > 0, _barred_by_timestamps(rows, rules)
    first, stop = rules.first_id, min(rules.last_id + 1, logits.shape[1])
    ruled = logits.clone()
    times = ruled[:, first:stop]
    times.masked_fill_(barred.times & asks[:, None], MINUS_INF)
    text = [
        (ruled[:, : rules.end_id], barred.words | barred.text),
        (ruled[:, rules.end_id : first], barred.text),
        (ruled[:, stop:], barred.words | barred.text),
    ]
    for part, is_barred in text:
        part.masked_fill_((is_barred & asks)[:, None], MINUS_INF)
    ruled[:, rules.no_timestamps_id].masked_fill_(asks, MINUS_INF)
    likeliest = torch.stack([part.amax(-1) for part, _ in text if part.shape[1]]).amax(0)
    no_text = (times.logsumexp(-1) > likeliest) & asks
    for part, _ in text:
        part.masked_fill_(no_text[:, None], MINUS_INF)
    return ruled


class _Barred(NamedTuple):
    """What cannot come next, by the timestamps so far: bool."""

    times: torch.Tensor  # [rows, timestamps]
    words: torch.Tensor  # [rows] text, but for the special tokens between words and timestamps
    text: torch.Tensor  # [rows] all that is no timestamp


def _barred_by_timestamps(rows: SampledRows, rules: TimestampRules) -> _Barred:
    generated = rows.generated
    history, lengths = rows.history(torch.arange(len(rows.slots), device=rows.device))
    stop = min(rules.last_id + 1, rows.state.vocab_size)
    ids = torch.arange(rules.first_id, stop, device=rows.device)[None]

    def token_before(back: int) -> torch.Tensor:
        return history.gather(1, (lengths - back).clamp(min=0)[:, None].long())[:, 0]

    last_is_time = (generated >= 1) & rules.holds(token_before(1))
    pair_is_closed = (generated < 2) | rules.holds(token_before(2))
    # The end of a segment may be said again, as the start of the next one.
    may_repeat = last_is_time & ~pair_is_closed
    position = torch.arange(history.shape[1], device=rows.device)[None]
    is_output = (position < lengths[:, None]) & (position >= (lengths - generated)[:, None])
    latest = torch.where(is_output & rules.holds(history), history, rules.first_id - 1).amax(1)
    next_time = torch.where(may_repeat, latest, latest + 1)
    earliest = torch.where(latest < rules.first_id, rules.first_id, next_time)

    is_first = generated == 0
    times = (last_is_time & pair_is_closed)[:, None] | (ids < earliest[:, None])
    if rules.max_initial is not None:
        times = times | (is_first[:, None] & (ids > rules.first_id + rules.max_initial))
    return _Barred(times, may_repeat, is_first)


def force_tokens(tokens: torch.Tensor, rows: SampledRows) -> tuple[torch.Tensor, torch.Tensor]:
    """`tokens` [rows], with the first and the last one replaced where the model prescribes them;
    and [rows] bool, where that is so."""
    first, last = rows.setting("forced_first"), rows.setting("forced_last")
    is_first = (rows.generated == 0) & (first != OFF)
    is_last = (rows.lengths == rows.setting("max_len") - 1) & (last != OFF)
    tokens = torch.where(is_last, last, torch.where(is_first, first, tokens))
    return tokens, is_first | is_last
