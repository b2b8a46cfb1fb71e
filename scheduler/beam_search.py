"""Beam search of one request, without its pages and slots: which of the possible next tokens are
kept, which sequences have ended, when the search is over, and how the results are ranked.
A sequence ends with a stop token, or with the token that completes a stop string in its text.

Two rules, as `BeamRules` says: that of transformers, and that of openai/whisper
(`BeamSearchDecoder`, `MaximumLikelihoodRanker`). Scores are sums of log-probabilities.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antiphon.config.decoding_rules import BeamRules
from antiphon.scheduler.beam_texts import BeamTexts, GrowingText
from antiphon.scheduler.generated import FinishReason, Hypothesis


class Continuation(NamedTuple):
    """A running sequence with one more token: its candidate number `column`."""

    parent: int  # among the running sequences, best first
    column: int
    total: float  # log-probabilities, this one's included
    score: float  # what it is ranked by, if it ends here
    reason: FinishReason


MakeHypothesis = Callable[[Continuation], Hypothesis]


class Survivors(NamedTuple):
    """The sequences that go on, best first: [n] each."""

    parents: np.ndarray
    columns: np.ndarray


class Likeness(NamedTuple):
    """What searches must have in common to go on together."""

    size: int
    num_candidates: int
    stop_ids: tuple[int, ...]
    num_running: int


@dataclass(frozen=True)
class _Ranking:
    """The best continuations of all running sequences, best first: [n] each."""

    parents: np.ndarray
    columns: np.ndarray
    totals: np.ndarray
    is_stop: np.ndarray  # bool: its token is a stop token
    ends: np.ndarray  # bool: its token ends the sequence, as such or by the text

    def first(self, which: np.ndarray) -> Survivors:
        return Survivors(self.parents[which], self.columns[which])


class BeamSearch(ABC):
    """The state of one search. `stop_ids`: of the request; `max_tokens`: that it may generate;
    `text`: of the prompt alone, where stop strings are looked for.

    totals      [running sequences] of those that go on, best first
    finished    the ended ones that are kept; best first once the search is over
    num_tokens  that every running sequence has generated
    """

    def __init__(
        self,
        rules: BeamRules,
        stop_ids: Sequence[int],
        max_tokens: int,
        text: GrowingText | None = None,
    ) -> None:
        self.rules, self.max_tokens = rules, max_tokens
        self._texts = None if text is None else BeamTexts(text)
        self._stop_ids = np.array(stop_ids, np.int64)
        self.totals = np.zeros(1)  # the prompt alone
        self.finished: list[Hypothesis] = []
        self.num_tokens = 0
        self._num_candidates = rules.num_candidates(len(stop_ids), text is not None)

    @staticmethod
    def of(
        rules: BeamRules,
        stop_ids: Sequence[int],
        max_tokens: int,
        text: GrowingText | None = None,
    ) -> "BeamSearch":
        kind = WhisperSearch if rules.by_whisper else TransformersSearch
        return kind(rules, stop_ids, max_tokens, text)

    def advance(
        self, ids: np.ndarray, scores: np.ndarray, make: MakeHypothesis
    ) -> Survivors | None:
        """Takes one more token for every running sequence: candidates `ids` and `scores`
        [running sequences, k], likeliest first. `make` is called for the sequences that end.

        Returns which sequences go on, or None: the search is over.
        """
        self.num_tokens += 1
        survivors = self._select(self._rank(ids, scores), make)
        if survivors is None:
            self.finished.sort(key=lambda one: -one.score)  # stable: the first one wins a tie
        elif self._texts is not None:
            self._texts.go_on(*survivors)
        return survivors

    @property
    def likeness(self) -> Likeness | None:
        """None where more than its candidates must be looked at in the next step."""
        if self._texts is not None or self.num_tokens + 1 >= self.max_tokens:
            return None
        stop_ids = tuple(self._stop_ids.tolist())
        return Likeness(self.rules.size, self._num_candidates, stop_ids, len(self.totals))

    def go_on(self, totals: np.ndarray) -> None:
        """With the best continuations, of which none ends: `totals` [running sequences]."""
        self.num_tokens += 1
        self.totals = totals

    @abstractmethod
    def _select(self, ranking: _Ranking, make: MakeHypothesis) -> Survivors | None:
        """The rule. Sets `totals` of the survivors."""

    def _rank(self, ids: np.ndarray, scores: np.ndarray) -> _Ranking:
        ids, scores = ids[:, : self._num_candidates], scores[:, : self._num_candidates]
        totals = self.totals[:, None] + scores.astype(np.float64)
        order = np.argsort(-totals.ravel(), kind="stable")
        order = order[totals.ravel()[order] > -np.inf]  # where all is barred, it may be NaN
        parents, columns = np.divmod(order, ids.shape[1])
        tokens = ids.ravel()[order]
        ends = is_stop = (tokens[:, None] == self._stop_ids).any(1)
        if self._texts is not None:
            ends = self._ended_by_text(self._texts, is_stop, parents, columns, tokens)
        return _Ranking(parents, columns, totals.ravel()[order], is_stop, ends)

    def _ended_by_text(
        self, texts: BeamTexts, is_stop: np.ndarray, *ranked: np.ndarray
    ) -> np.ndarray:
        """`is_stop` [n], and where else a text ends. No rule looks further down the ranking than
        to the last sequence that goes on, and nor does this, as each text takes time."""
        ends, running = is_stop.copy(), 0
        places = enumerate(zip(*(values.tolist() for values in ranked), strict=True))
        while running < self.rules.size and (place := next(places, None)) is not None:
            i, (parent, column, token) = place
            if not ends[i]:
                ends[i] = texts.ends(parent, column, token)
                running += not ends[i]
        return ends

    def _make(self, ranking: _Ranking, i: int, score: float, make: MakeHypothesis) -> Hypothesis:
        reason: FinishReason = "stop" if ranking.ends[i] else "length"
        parent, column = int(ranking.parents[i]), int(ranking.columns[i])
        return make(Continuation(parent, column, float(ranking.totals[i]), score, reason))


class TransformersSearch(BeamSearch):
    """As `generate(num_beams=...)` of transformers: of the `size` best continuations, those that
    end are kept, if they are better than those kept before."""

    @property
    def likeness(self) -> Likeness | None:
        return None if len(self.finished) >= self.rules.size else super().likeness

    def _select(self, ranking: _Ranking, make: MakeHypothesis) -> Survivors | None:
        size, num_tokens = self.rules.size, self.num_tokens
        ends = ranking.ends[: self._num_candidates] | (num_tokens >= self.max_tokens)
        self._keep(ranking, np.flatnonzero(ends[:size]), make)
        runs = np.flatnonzero(~ends)[:size]
        if not len(runs) or self._is_over(ranking.totals[runs[0]]):
            return None
        self.totals = ranking.totals[runs]
        return ranking.first(runs)

    def _keep(self, ranking: _Ranking, ended: np.ndarray, make: MakeHypothesis) -> None:
        size, kept = self.rules.size, self.finished
        for i in ended.tolist():
            score = ranking.totals[i] / self._divisor(self.num_tokens)
            if len(kept) < size or score > min(one.score for one in kept):
                kept.append(self._make(ranking, i, float(score), make))
                kept.sort(key=lambda one: -one.score)
                del kept[size:]

    def _is_over(self, best_total: float) -> bool:
        """True if no running sequence is expected to come before those kept."""
        if len(self.finished) < self.rules.size:
            return False
        early, penalty = self.rules.early_stopping, self._length_penalty
        if early is True:
            return True
        looks_ahead = early == "never" and penalty > 0.0
        length = self.max_tokens if looks_ahead else self.num_tokens
        return bool(best_total / self._divisor(length) <= self.finished[-1].score)

    @property
    def _length_penalty(self) -> float:
        penalty = self.rules.length_penalty
        return 1.0 if penalty is None else penalty

    def _divisor(self, length: int) -> float:
        return float(length**self._length_penalty)


class WhisperSearch(BeamSearch):
    """As openai/whisper: the walk down the ranking ends with the last sequence that goes on, and
    what ended before it is kept, while there is room."""

    def _select(self, ranking: _Ranking, make: MakeHypothesis) -> Survivors | None:
        runs = np.flatnonzero(~ranking.ends)[: self.rules.size]
        walked = runs[-1] if len(runs) == self.rules.size else len(ranking.totals)
        for i in np.flatnonzero(ranking.ends[:walked]).tolist():
            if len(self.finished) < self._max_finished:
                self.finished.append(self._end(ranking, i, make))
        if (
            len(self.finished) < self._max_finished
            and self.num_tokens < self.max_tokens
            and len(runs)
        ):
            self.totals = ranking.totals[runs]
            return ranking.first(runs)
        for i in runs[: max(0, self.rules.size - len(self.finished))].tolist():
            self.finished.append(self._end(ranking, i, make))
        return None

    @property
    def _max_finished(self) -> int:
        return max(1, round(self.rules.size * self.rules.patience))

    def _end(self, ranking: _Ranking, i: int, make: MakeHypothesis) -> Hypothesis:
        length = self.num_tokens - bool(ranking.is_stop[i])  # without a stop token
        if self.rules.length_penalty is None:
            divisor = max(1.0, float(length))
        else:
            divisor = ((5 + length) / 6) ** self.rules.length_penalty
        return self._make(ranking, i, float(ranking.totals[i] / divisor), make)


def go_on_together(
    searches: Sequence[BeamSearch], likeness: Likeness, ids: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, Survivors]:
    """Takes one more token for searches of one `likeness`: candidates as `advance` takes them, of
    each search. As long as none of the best sequences ends, all rules keep just these.

    Returns which searches have gone on [searches] bool, and the survivors of each, [those, n]. The
    others are as before, and must `advance` by themselves.
    """
    count, rows = len(searches), np.arange(len(searches))[:, None]
    ids, scores = (values[..., : likeness.num_candidates] for values in (ids, scores))
    before = np.stack([search.totals for search in searches])
    totals = (before[:, :, None] + scores.astype(np.float64)).reshape(count, -1)
    best = np.argsort(-totals, axis=1, kind="stable")[:, : likeness.size]
    tokens, totals = ids.reshape(count, -1)[rows, best], totals[rows, best]
    ends = (tokens[:, :, None] == np.array(likeness.stop_ids, np.int64)).any((1, 2))
    goes_on: np.ndarray = ~ends & (totals > -np.inf).all(1)
    for number in np.flatnonzero(goes_on).tolist():
        searches[number].go_on(totals[number])
    return goes_on, Survivors(*np.divmod(best[goes_on], ids.shape[2]))
