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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from antiphon.kv.pages import PagePool, pages_for
from antiphon.scheduler.batch import Batch
from antiphon.scheduler.beam_branches import BeamGroup, Branches
from antiphon.scheduler.beam_candidates import GroupCandidates, StepCandidates
from antiphon.scheduler.beam_plan import BeamMoves
from antiphon.scheduler.beam_search import (
    BeamSearch,
    Continuation,
    Likeness,
    Survivors,
    go_on_together,
)
from antiphon.scheduler.beam_texts import GrowingText, NewText, needs_text, no_texts
from antiphon.scheduler.generated import Hypothesis
from antiphon.scheduler.plan import Admission, StepPlan, StepResult
from antiphon.scheduler.prefixes import NEVER
from antiphon.scheduler.request import Request


class Outcome(NamedTuple):
    """What became of a search in a step. It is over, or `lacks_pages`: it must begin anew."""

    request: Request
    lacks_pages: bool = False


class Beams:
    """The groups of `batch`. `new_text`: of a sequence that has stop strings."""

    def __init__(self, batch: Batch, pages: PagePool, new_text: NewText = no_texts) -> None:
        self.batch, self.pages, self._new_text = batch, pages, new_text
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
        text = self.text_of(request)
        search = BeamSearch.of(rules, request.rules.stop_ids, request.max_tokens, text)
        self._groups[request.order] = BeamGroup(request, slots, search)
        own = zip(reserved, pages, strict=True)
        return [replace(leader, slot=slot, self_pages=np.array([page])) for slot, page in own]

    def text_of(self, request: Request) -> GrowingText | None:
        """Of the prompt of a search, if stop strings may end it."""
        return self._new_text(request.params) if needs_text(request) else None

    def leave(self, request: Request) -> None:
        """Frees all slots of `request` but its own, with their pages."""
        group = self._groups.pop(request.order)
        others = group.slots[group.slots != request.slot]
        self._release(others)
        for slot in others.tolist():
            self.batch.free(slot)

    def _release(self, slots: np.ndarray) -> None:
        """Takes from `slots` [n] what pages they have."""
        counts = self.batch.num_self_pages[slots]
        self.pages.release(*_filled(self.batch.self_table[slots], counts))
        self.batch.num_self_pages[slots] = 0

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
        if not len(rows):
            return []
        self.batch.pending[plan.slots[rows]] -= 1
        row_of_slot = np.full(len(self.batch.requests), -1)
        row_of_slot[plan.slots[rows]] = rows
        groups = [self._groups[order] for order in dict.fromkeys(plan.ids[rows].tolist())]
        for group in groups:
            if group.request.metrics.first_token_at is None:
                group.request.metrics.first_token_at = now
        steps, outcomes = StepCandidates.of(result), list[Outcome]()
        branches = self._go_on_together(groups, steps, row_of_slot)
        have_gone_on = {group.request.order for one in branches for group in one.groups}
        for group in groups:
            if group.request.order in have_gone_on:
                continue
            own = row_of_slot[group.slots[: group.num_running]]
            branching = self._advance(group, steps.of_rows(own))
            if branching is None:
                outcomes.append(Outcome(group.request))
            else:
                branches.append(branching)
        return [*outcomes, *self._branch(branches)]

    def _go_on_together(
        self, groups: Sequence[BeamGroup], steps: StepCandidates, row_of_slot: np.ndarray
    ) -> list[Branches]:
        """Of those `groups` that are like others, and of which no sequence ends: a search by itself
        takes a tenth of a millisecond. None, where pages may be lacking for all of them."""
        if sum(len(group.slots) for group in groups) > self.pages.num_available:
            return []
        by_likeness: dict[Likeness, list[BeamGroup]] = {}
        for group in groups:
            likeness = group.search.likeness
            if likeness is not None and group.request.params.logprobs is None:
                by_likeness.setdefault(likeness, []).append(group)
        branches = []
        for likeness, alike in by_likeness.items():
            if len(alike) == 1:
                continue
            slots = np.stack([group.slots[: likeness.num_running] for group in alike])
            step = steps.of_rows(row_of_slot[slots])
            searches = [group.search for group in alike]
            goes_on, survivors = go_on_together(searches, likeness, step.ids, step.scores)
            if goes_on.any():
                going = [group for group, goes in zip(alike, goes_on, strict=True) if goes]
                branches.append(Branches.of(going, step.of(goes_on), survivors))
        return branches

    def _advance(self, group: BeamGroup, step: GroupCandidates) -> Branches | None:
        """Where the sequences of `group` go on; None if its search is over."""

        def make(one: Continuation) -> Hypothesis:
            return self._hypothesis(group, step, one)

        survivors = group.search.advance(step.ids, step.scores, make)
        if survivors is None:
            rules = group.request.rules.beams
            assert rules is not None
            group.request.hypotheses = group.search.finished[: rules.num_best]
            return None
        if group.request.params.logprobs is not None:
            group.logprobs = [
                [*group.logprobs[parent], step.of_token(parent, column, group.request)]
                for parent, column in zip(*survivors, strict=True)
            ]
        return Branches.of([group], step.of(None), Survivors(*(one[None] for one in survivors)))

    def _hypothesis(self, group: BeamGroup, step: GroupCandidates, one: Continuation) -> Hypothesis:
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

    def _branch(self, branches: list[Branches]) -> list[Outcome]:
        """Gives each survivor a slot, with its tokens and pages: of all searches at once, or one by
        one where pages may be lacking. Returns the searches that lack some, and must leave."""
        needed = sum(len(group.slots) for branching in branches for group in branching.groups)
        if needed <= self.pages.num_available:
            is_done = self._move(branches)
            assert is_done
            return []
        return [
            Outcome(group.request, lacks_pages=True)
            for branching in branches
            if not self._move([branching])
            for group in branching.groups  # one: see `_go_on_together`
        ]

    def _move(self, branches: list[Branches]) -> bool:
        """False if pages are lacking."""
        if not branches:
            return True
        batch = self.batch
        slots, sources, idle, token_ids, logprobs = map(
            np.concatenate, zip(*(branching.parts for branching in branches), strict=True)
        )
        lengths = batch.computed[sources]  # the same of all sequences of a search
        is_moved = slots != sources
        if not self._share_pages(slots[is_moved], sources[is_moved], idle):
            return False
        moved, origins, longest = slots[is_moved], sources[is_moved], int(lengths.max())
        batch.tokens[moved, :longest] = batch.tokens[origins, :longest]
        batch.logprobs[moved, :longest] = batch.logprobs[origins, :longest]
        batch.tokens[slots, lengths], batch.logprobs[slots, lengths] = token_ids, logprobs
        batch.max_len[slots] = batch.max_len[sources]
        batch.length[slots], batch.computed[slots] = lengths + 1, lengths
        batch.num_published[slots] = NEVER
        batch.length[idle] = batch.computed[idle] = batch.max_len[idle] = 0
        for branching in branches:
            branching.enter()
        tables = batch.self_table[slots, : pages_for(longest, batch.page_size)]
        moves = BeamMoves(slots, batch.ids[slots], sources, lengths, token_ids, tables)
        batch.beam_moves.append(moves)
        return True

    def _share_pages(self, slots: np.ndarray, sources: np.ndarray, idle: np.ndarray) -> bool:
        """Gives `slots` [n] the pages of what `sources` [n] have computed, the last one as a copy
        if it is not full; and `idle` slots one page each. Frees what they had."""
        batch = self.batch
        num_full, rest = np.divmod(batch.computed[sources], batch.page_size)
        shared = batch.self_table[sources]
        self.pages.retain(*_filled(shared, num_full))  # before anything is freed
        last, partial = shared[np.arange(len(slots)), num_full], rest > 0
        self._release(np.concatenate([slots, idle]))
        batch.self_table[slots], batch.num_self_pages[slots] = shared, num_full
        if partial.any():
            copies = self.pages.allocate(int(partial.sum()))
            if copies is None:
                return False
            batch.add_pages(slots[partial], copies)
            pairs = zip(copies.tolist(), last[partial].tolist(), strict=True)
            batch.page_copies.update(pairs)
        # Where there is no page for an idle slot, a later branch may have to wait.
        own = self.pages.allocate(min(len(idle), self.pages.num_available))
        assert own is not None
        batch.add_pages(idle[: len(own)], own)
        return True


def _filled(tables: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pages among the first `counts` [n] of `tables` [n, pages], each once, and how often each
    stands there."""
    pages = tables[np.arange(tables.shape[1]) < counts[:, None]]
    return np.unique(pages, return_counts=True)
