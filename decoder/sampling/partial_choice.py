"""The likeliest tokens where every rank has the logits of its own words alone: each
rank sends a few numbers a row, and all choose from those of all ranks.
"""

from dataclasses import dataclass

import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.drawing import likeliest
from antiphon.decoder.sampling.restrictions import force_tokens, split_by_timestamps, times_among
from antiphon.decoder.sampling.rows import SampledRows
from antiphon.kernels.formats import PRESCRIBED, RAW_SUM, TEXT, TIME

MINUS_INF = float("-inf")


@dataclass(frozen=True)
class Best:
    """The likeliest of some tokens, [..., rows] float32 each.

    scores    under the restricted logits
    ids       exact: no vocabulary comes near 2**24
    raw       the raw logits of the same tokens
    log_sums  log-sum-exp of all restricted logits
    """

    scores: torch.Tensor
    ids: torch.Tensor
    raw: torch.Tensor
    log_sums: torch.Tensor

    @classmethod
    def nothing(cls, like: torch.Tensor) -> "Best":
        """Of no tokens, for `like`'s rows. An id that all ranks name wins nothing."""
        barred = torch.full_like(like, MINUS_INF)
        return cls(barred, torch.zeros_like(like), barred, barred)

    @classmethod
    def of(cls, restricted: torch.Tensor, raw: torch.Tensor, first_id: int) -> "Best":
        """Of logits [rows, words], whose first column is the token `first_id`."""
        if not raw.shape[1]:
            return cls.nothing(raw.sum(-1))
        columns = likeliest(restricted)[:, None]
        scores, chosen = restricted.gather(1, columns)[:, 0], raw.gather(1, columns)[:, 0]
        ids = (columns[:, 0] + first_id).float()
        return cls(scores, ids, chosen, restricted.logsumexp(-1))

    @classmethod
    def unpack(cls, numbers: torch.Tensor, first: int) -> "Best":
        return cls(*numbers[..., first : first + 4].unbind(-1))

    def joined(self) -> "Best":
        """Of all ranks, from [ranks, rows]. The first rank wins a tie: the lowest
        id."""
        rank = self.scores.argmax(0)[None]
        scores, ids, raw = (x.gather(0, rank)[0] for x in (self.scores, self.ids, self.raw))
        return Best(scores, ids, raw, self.log_sums.logsumexp(0))


@dataclass(frozen=True)
class Choice:
    """The tokens of a step, [rows] each, as `Samples.put` takes them."""

    tokens: torch.Tensor
    logprobs: torch.Tensor
    restricted_logprobs: torch.Tensor
    is_forced: torch.Tensor | None


def describe_own_words(
    raw: torch.Tensor, ruled: torch.Tensor, rows: SampledRows, timestamps: TimestampRules | None
) -> torch.Tensor:
    """What the other ranks must know of this rank's logits `raw` [rows, own words], of
    which the rules have made `ruled`: [rows, ROW_NUMBERS] float32, as
    `kernels/formats.py` lays them out.

    `timestamps`: the rules among them, if any row asks for them.
    """
    first = rows.words.first
    if timestamps is None:
        text = Best.of(ruled, raw, first)
        time = Best.nothing(text.scores)
    else:
        of_text, of_times = split_by_timestamps(ruled, rows, timestamps)
        columns = times_among(rows, timestamps)
        text = Best.of(of_text, raw, first)
        time = Best.of(of_times, raw[:, columns], first + columns.start)
    raw_sums = text.log_sums if ruled is raw else raw.logsumexp(-1)
    parts = (raw_sums, _forced_logits(raw, rows), *_fields(text), *_fields(time))
    return torch.stack(parts, dim=-1)


def choose(numbers: torch.Tensor, rows: SampledRows) -> Choice:
    """The tokens of `rows`, from all ranks' `numbers` [ranks, rows, ROW_NUMBERS]."""
    text, time = (Best.unpack(numbers, first).joined() for first in (TEXT, TIME))
    raw_sums = numbers[..., RAW_SUM].logsumexp(0)
    only_times = time.log_sums > text.scores
    is_tie = (time.scores == text.scores) & (time.ids < text.ids)
    takes_time = only_times | (is_tie & (time.scores > MINUS_INF))
    both = torch.logaddexp(text.log_sums, time.log_sums)
    log_sums = torch.where(only_times, time.log_sums, both)
    scores = torch.where(takes_time, time.scores, text.scores)
    chosen = torch.where(takes_time, time.raw, text.raw)
    own = torch.where(takes_time, time.ids, text.ids).long()
    tokens, is_forced = force_tokens(own, rows)
    chosen = torch.where(is_forced, numbers[..., PRESCRIBED].amax(0), chosen)
    # Where all are barred the sum is minus infinity too.
    safe_sums = log_sums.masked_fill(log_sums == MINUS_INF, 0.0)
    return Choice(tokens, chosen - raw_sums, scores - safe_sums, is_forced)


def _fields(best: Best) -> tuple[torch.Tensor, ...]:
    return best.scores, best.ids, best.raw, best.log_sums


def _forced_logits(raw: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """Raw logits [rows] of the tokens that the model prescribes; minus infinity where
    this rank does not have the word."""
    nothing = torch.full_like(rows.slots, -1, dtype=torch.int64)
    forced = force_tokens(nothing, rows)[0]
    logits = raw.gather(1, rows.words.places(forced)[:, None])[:, 0]
    return logits.masked_fill(~rows.words.holds(forced), MINUS_INF)
