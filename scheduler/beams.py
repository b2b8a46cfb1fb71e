"""Requests that hold several slots: one for each sequence of their beam search.

A group begins with one running sequence, its prompt. The other slots are reserved: they belong to
the request, and never run before a sequence moves there. After each step `beam_search.py` says
which sequences go on, behind which others. One stays in the slot of the sequence that it
continues; further ones move to slots whose sequence has been given up. There they share all full
pages, and have a copy of the last one if it is not full, so that each writes to pages of its own.

Every slot keeps at least one page of its own while it is reserved, and what a sequence that was
given up has written is freed before a copy is made. So a search that has begun can branch without
asking for more pages than it has; only growing needs some, as for every sequence.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from antiphon.kv.pages import PagePool, pages_for
from antiphon.scheduler.batch import Batch
from antiphon.scheduler.beam_plan import BeamCandidates, BeamMoves
from antiphon.scheduler.beam_search import BeamSearch, Continuation, Survivors
from antiphon.scheduler.generated import Hypothesis, TokenLogprobs
from antiphon.scheduler.plan import Admission, StepPlan, StepResult
from antiphon.scheduler.prefixes import NEVER
from antiphon.scheduler.request import Request


@dataclass(eq=False)
class BeamGroup:
    """`slots` [size]: those of the running sequences first, best first; then the reserved ones.
    `logprobs`: of the running sequences, where the request asks for them."""

    request: Request
    slots: np.ndarray
    search: BeamSearch
    logprobs: list[list[TokenLogprobs]] = field(default_factory=lambda: [[]])

    @property
    def num_running(self) -> int:
        return len(self.search.totals)


class Outcome(NamedTuple):
    """What became of a search in a step. It is over, or `lacks_pages`: it must begin anew."""

    request: Request
    lacks_pages: bool = False


class Beams:
    """The groups of `batch`."""

    def __init__(self, batch: Batch, pages: PagePool) -> None:
        self.batch, self.pages = batch, pages
        self._groups: dict[int, BeamGroup] = {}  # by order of arrival of their request

    # ------------------------------------------------------------------ coming and going

    def enter(self, request: Request, leader: Admission) -> list[Admission]:
        """Reserves the other slots of `request`, which has one by `leader`, and a page for each.
        Returns their admissions: the device knows of them before anything moves there."""
        rules, batch = request.rules.beams, self.batch
        assert rules is not None
        lane = int(batch.lane[leader.slot])
        pages = self.pages.allocate(rules.size - 1)
        assert pages is not None
        reserved = [batch.reserve(request, lane, page) for page in pages]
        slots = np.array([leader.slot, *reserved])
        batch.in_group[slots] = batch.waits_for_host[slots] = True
        search = BeamSearch.of(rules, request.rules.stop_ids, request.max_tokens)
        self._groups[request.order] = BeamGroup(request, slots, search)
        own = zip(reserved, pages, strict=True)
        return [replace(leader, slot=slot, self_pages=np.array([page])) for slot, page in own]

    def leave(self, request: Request) -> None:
        """Frees all slots of `request` but its own, with their pages."""
        group = self._groups.pop(request.order)
        for slot in group.slots[group.slots != request.slot].tolist():
            self._release(slot)
            self.batch.free(slot)

    def _release(self, slot: int) -> None:
        count = self.batch.num_self_pages[slot]
        self.pages.release(self.batch.self_table[slot, :count])
        self.batch.num_self_pages[slot] = 0

    # ------------------------------------------------------------------ results

    def settle(
        self, plan: StepPlan, is_live: np.ndarray, result: StepResult, now: float
    ) -> list[Outcome]:
        """Takes one more token in for the sequences of all searches that are in `plan`, but for
        rows that are not `is_live` [rows]. Returns the searches that do not go on; what an ended
        one found is with its request. `now`: of the scheduler's clock."""
        if not self._groups:
            return []
        rows = (is_live & plan.samples & self.batch.in_group[plan.slots]).nonzero()[0]
        self.batch.pending[plan.slots[rows]] -= 1
        row_of_slot = np.full(len(self.batch.requests), -1)
        row_of_slot[plan.slots[rows]] = rows
        outcomes = []
        for order in dict.fromkeys(plan.ids[rows].tolist()):
            group = self._groups[order]
            if group.request.metrics.first_token_at is None:
                group.request.metrics.first_token_at = now
            own = row_of_slot[group.slots[: group.num_running]]
            if (outcome := self._advance(group, _Step.of(own, result))) is not None:
                outcomes.append(outcome)
        return outcomes

    def _advance(self, group: BeamGroup, step: "_Step") -> Outcome | None:
        def make(one: Continuation) -> Hypothesis:
            return self._hypothesis(group, step, one)

        survivors = group.search.advance(step.ids, step.scores, make)
        if survivors is None:
            rules = group.request.rules.beams
            assert rules is not None
            group.request.hypotheses = group.search.finished[: rules.num_best]
            return Outcome(group.request)
        if group.request.params.logprobs is not None:
            group.logprobs = [
                [*group.logprobs[parent], step.of_token(parent, column, group.request)]
                for parent, column in zip(*survivors, strict=True)
            ]
        has_pages = self._move(group, step, survivors)
        return None if has_pages else Outcome(group.request, lacks_pages=True)

    def _hypothesis(self, group: BeamGroup, step: "_Step", one: Continuation) -> Hypothesis:
        batch, slot = self.batch, int(group.slots[one.parent])
        generated = slice(int(batch.prompt_len[slot]), int(batch.length[slot]) - 1)
        place = one.parent, one.column
        named = []
        if group.request.params.logprobs is not None:
            named = [*group.logprobs[one.parent], step.of_token(*place, group.request)]
        return Hypothesis(
            token_ids=[*batch.tokens[slot, generated].tolist(), int(step.ids[place])],
            reason=one.reason,
            score=one.score,
            restricted_logprob=one.total,
            token_logprobs=[*batch.logprobs[slot, generated].tolist(), float(step.logprobs[place])],
            logprobs=named,
        )

    # ------------------------------------------------------------------ moves

    def _move(self, group: BeamGroup, step: "_Step", survivors: Survivors) -> bool:
        """Gives each survivor a slot, with its tokens and pages. False if pages are lacking; the
        group must leave then."""
        batch = self.batch
        sources = group.slots[survivors.parents]
        slots, idle = _placed(group.slots, survivors.parents)
        is_moved = slots != sources
        length = int(batch.computed[sources[0]])  # the same of all
        if not self._share_pages(slots[is_moved], sources[is_moved], idle, length):
            return False
        place = survivors.parents, survivors.columns
        batch.tokens[slots, :length] = batch.tokens[sources, :length]
        batch.logprobs[slots, :length] = batch.logprobs[sources, :length]
        batch.tokens[slots, length] = step.ids[place]
        batch.logprobs[slots, length] = step.logprobs[place]
        batch.length[slots], batch.computed[slots] = length + 1, length
        batch.max_len[slots] = group.request.max_len
        batch.num_published[slots] = NEVER
        batch.length[idle] = batch.computed[idle] = batch.max_len[idle] = 0
        group.slots = np.concatenate([slots, idle])
        ids = np.full(len(slots), group.request.order)
        positions = np.full(len(slots), length)
        tables = batch.self_table[slots, : pages_for(length, batch.page_size)]
        moves = BeamMoves(slots, ids, sources, positions, batch.tokens[slots, length], tables)
        batch.beam_moves.append(moves)
        return True

    def _share_pages(
        self, slots: np.ndarray, sources: np.ndarray, idle: np.ndarray, length: int
    ) -> bool:
        """Gives `slots` [n] the pages of the first `length` tokens of `sources` [n], the last one
        as a copy if it is not full; and `idle` slots one page each. Frees what they had."""
        batch = self.batch
        num_full, rest = divmod(length, batch.page_size)
        shared = batch.self_table[sources, :num_full]
        for pages in shared:  # before anything is freed: a page may be in several rows
            self.pages.retain(pages)
        for slot in (*slots.tolist(), *idle.tolist()):
            self._release(slot)
        batch.self_table[slots, :num_full], batch.num_self_pages[slots] = shared, num_full
        if rest:
            copies = self.pages.allocate(len(slots))
            if copies is None:
                return False
            self._copy_last(slots, batch.self_table[sources, num_full], copies)
        for slot in idle.tolist():  # where there is none, a later branch may have to wait
            if (page := self.pages.allocate(1)) is not None:
                batch.add_pages(np.array([slot]), page)
        return True

    def _copy_last(self, slots: np.ndarray, sources: np.ndarray, copies: np.ndarray) -> None:
        """`copies` [n] of the pages `sources` [n] are the last ones of `slots` [n]."""
        self.batch.add_pages(slots, copies)
        for copy, source in zip(copies.tolist(), sources.tolist(), strict=True):
            self.batch.page_copies[copy] = source


def _placed(slots: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slots [n] of sequences that go on behind those number `parents` [n] of `slots`: the
    first one behind each stays where that one is. Returns also the slots that are left."""
    behind = parents.tolist()  # a few: plain lists are faster than arrays
    continued = set(behind)
    free = [slot for index, slot in enumerate(slots.tolist()) if index not in continued]
    placed = slots[parents]
    for i, parent in enumerate(behind):
        if parent in continued:
            continued.remove(parent)
        else:
            placed[i] = free.pop(0)
    return placed, np.array(free, slots.dtype)


@dataclass(frozen=True)
class _Step:
    """What a step says of the running sequences of one group, [running, k] each."""

    rows: np.ndarray  # [running] of the plan
    result: StepResult
    candidates: BeamCandidates
    index: np.ndarray  # [running] into the candidates

    @classmethod
    def of(cls, rows: np.ndarray, result: StepResult) -> "_Step":
        candidates = result.beams
        assert candidates is not None
        index = np.searchsorted(candidates.rows, rows)
        assert (candidates.rows[index] == rows).all()
        return cls(rows, result, candidates, index)

    @property
    def ids(self) -> np.ndarray:
        ids: np.ndarray = self.candidates.ids[self.index]
        return ids

    @property
    def scores(self) -> np.ndarray:
        scores: np.ndarray = self.candidates.scores[self.index]
        return scores

    @property
    def logprobs(self) -> np.ndarray:
        logprobs: np.ndarray = self.candidates.logprobs[self.index]
        return logprobs

    def of_token(self, parent: int, column: int, request: Request) -> TokenLogprobs:
        """Log-probabilities of a candidate, and of as many likeliest tokens as `request` asks."""
        count, top = request.params.logprobs or 0, self.result.top
        others: tuple[list[int], list[float]] = ([], [])
        if top is not None:
            others = top.of_row(int(self.rows[parent]), count)
        place = self.index[parent], column
        return TokenLogprobs(
            ids=[int(self.candidates.ids[place]), *others[0]],
            logprobs=[float(self.candidates.logprobs[place]), *others[1]],
            ranks=[int(self.candidates.ranks[place]), *range(1, len(others[0]) + 1)],
        )
