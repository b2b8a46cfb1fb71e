"""Rules that say which tokens are possible, whatever was written: masks, least lengths,
Whisper's timestamps, forced tokens. They read settings on the device alone, so a
captured graph can hold them; on a GPU as one kernel, `kernels/sampling_scan.py`.

Each takes logits [rows, words] float32, of the vocabulary's words `rows.words`, and
returns new ones, unless its docstring says otherwise.
"""

from typing import NamedTuple

import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.rows import SampledRows
from antiphon.decoder.sampling.settings import OFF

MINUS_INF = float("-inf")


def masks_of(rows: SampledRows) -> torch.Tensor:
    """Added to logits for suppressed, allowed and biased tokens: [rows, own words]. As
    in transformers, the first token that is not forced has a mask of its own."""
    first_free = (rows.setting("forced_first") != OFF).long()
    is_first = rows.generated == first_free
    mask = torch.where(is_first, rows.setting("begin_mask"), rows.setting("mask"))
    return rows.state.masks.rows[mask]


def bar_stop_tokens(logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """No stop token before `min_tokens` are generated."""
    early = (rows.generated < rows.setting("min_tokens"))[:, None]
    columns = rows.state.stop_ids[rows.slots] - rows.words.first
    is_word = (columns >= 0) & (columns < rows.words.count)  # those unused are none
    barred = torch.where(early & is_word, MINUS_INF, 0.0)
    return logits.scatter_add(1, columns * is_word, barred)  # others add 0 to the first word


def apply_timestamp_rules(
    logits: torch.Tensor, rows: SampledRows, rules: TimestampRules
) -> torch.Tensor:
    """In rows that ask: timestamps come in pairs, never decrease, and are taken when
    together they are likelier than any text. `rows.words`: the whole vocabulary."""
    ruled = bar_by_timestamps(logits, rows, rules)
    times, text = _times_and_text(ruled, rows, rules)
    likeliest = torch.stack([part.amax(-1) for part in text if part.shape[1]]).amax(0)
    no_text = (times.logsumexp(-1) > likeliest) & (rows.setting("timestamps") > 0)
    for part in text:
        part.masked_fill_(no_text[:, None], MINUS_INF)
    return ruled


def bar_by_timestamps(
    logits: torch.Tensor, rows: SampledRows, rules: TimestampRules
) -> torch.Tensor:
    """The rules of timestamps, but for the choice between them and text.

    Works by ranges of ids: rules of timestamps alone cost a few hundred numbers a row.
    """
    asks, barred = rows.setting("timestamps") > 0, _barred_by_timestamps(rows, rules)
    ruled = logits.clone()
    times, (words, special, added) = _times_and_text(ruled, rows, rules)
    times.masked_fill_(barred.times & asks[:, None], MINUS_INF)
    for part, is_barred in (
        (words, barred.words | barred.text),
        (special, barred.text),
        (added, barred.words | barred.text),
    ):
        part.masked_fill_((is_barred & asks)[:, None], MINUS_INF)
    never = _columns(rows, rules.no_timestamps_id, rules.no_timestamps_id + 1)
    ruled[:, never].masked_fill_(asks[:, None], MINUS_INF)
    return ruled


def split_by_timestamps(
    logits: torch.Tensor, rows: SampledRows, rules: TimestampRules
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of `logits` that `bar_by_timestamps` has barred: text [rows, words], and
    timestamps [rows, timestamps among the words]; minus infinity for tokens of the
    other kind. A row that does not ask for the rules has text alone."""
    asks, (times, _) = rows.setting("timestamps") > 0, _times_and_text(logits, rows, rules)
    times = times.masked_fill(~asks[:, None], MINUS_INF)
    text = logits.clone()
    _times_and_text(text, rows, rules)[0].masked_fill_(asks[:, None], MINUS_INF)
    return text, times


def times_among(rows: SampledRows, rules: TimestampRules) -> slice:
    """The columns of timestamps."""
    return _columns(rows, rules.first_id, rules.last_id + 1)


def _columns(rows: SampledRows, first: int, stop: int) -> slice:
    """The columns of `rows.words` with ids from `first` to before `stop`."""
    start = min(max(first - rows.words.first, 0), rows.words.count)
    return slice(start, min(max(stop - rows.words.first, start), rows.words.count))


def _times_and_text(
    logits: torch.Tensor, rows: SampledRows, rules: TimestampRules
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Views of `logits`: timestamps; and words, the special tokens behind them, and the
    tokens that were added behind the timestamps."""
    times = times_among(rows, rules)
    special = _columns(rows, rules.end_id, rules.first_id)
    return logits[:, times], (
        logits[:, : special.start],
        logits[:, special],
        logits[:, times.stop :],
    )


class _Barred(NamedTuple):
    """What cannot come next, by the timestamps so far: bool."""

    times: torch.Tensor  # [rows, timestamps among the words]
    words: torch.Tensor  # [rows] text, but for the special tokens between words and timestamps
    text: torch.Tensor  # [rows] all that is no timestamp


def _barred_by_timestamps(rows: SampledRows, rules: TimestampRules) -> _Barred:
    generated = rows.generated
    history, lengths = rows.history(torch.arange(len(rows.slots), device=rows.device))
    columns = times_among(rows, rules)
    ids = torch.arange(columns.start, columns.stop, device=rows.device)[None] + rows.words.first

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
    last_initial = rules.first_id + rows.setting("timestamps") - 1
    times = times | (is_first[:, None] & (ids > last_initial[:, None]))
    return _Barred(times, may_repeat, is_first)


def force_tokens(tokens: torch.Tensor, rows: SampledRows) -> tuple[torch.Tensor, torch.Tensor]:
    """`tokens` [rows], with the first and the last one replaced where the model
    prescribes them; and [rows] bool, where that is so."""
    prescribed, is_forced = forced_tokens(rows)
    return torch.where(is_forced, prescribed, tokens), is_forced


def forced_tokens(rows: SampledRows) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens [rows] that the model prescribes, and [rows] bool, where it does."""
    first, last = rows.setting("forced_first"), rows.setting("forced_last")
    is_first = (rows.generated == 0) & (first != OFF)
    is_last = (rows.lengths == rows.setting("max_len") - 1) & (last != OFF)
    return torch.where(is_last, last, first), is_first | is_last
