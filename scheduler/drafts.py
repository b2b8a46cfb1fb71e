"""Which sequences of a step draft tokens, and how many: speculative decoding.

A row that drafts computes, behind its last token, tokens that are only likely to come next, and
samples at each of them (`PlannedDrafts`). Those drafts hold that are what it samples there anyway,
up to the first that is not; of the keys behind that one nothing is read, and the next step
overwrites them. So tokens are those of a run without drafts, whoever drafts them and when.

How many hold is known once the step's result is here: until then such a row does not run. Nor
does any other row that might draft, while drafts are on: its next tokens follow from its last.
That is why a large batch, whose steps are not bound by reading weights, runs without.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from msgspec.structs import astuple, replace

from antiphon.kv.pages import PagePool
from antiphon.scheduler.batch import Batch
from antiphon.scheduler.plan import NO_NEW_PAGES, NewPages, PlannedDrafts, StepPlan, StepResult
from antiphon.scheduler.prompt_lookup import NOTHING, LookupSizes


@dataclass(frozen=True)
class DraftLimits:
    """`lookup`: where drafts are looked up; None: a draft model makes them."""

    num_tokens: int  # of a row, at most
    max_sequences: int  # no drafts while more run
    max_source: int = 0  # tokens of an input that are looked up in
    lookup: LookupSizes | None = None


class Drafter:
    """Plans the drafts of `batch`.

    They never cost another sequence anything: a page is taken for them only while there are more
    free ones than sequences.
    """

    def __init__(
        self, batch: Batch, pages: PagePool, limits: DraftLimits, counters: Counter[str]
    ) -> None:
        self.batch, self.pages, self.limits = batch, pages, limits
        self._counters = counters
        slots = len(batch.requests)
        self._is_on = False
        self._turn = np.zeros(slots, np.int64)  # of admission, of what is known here of a slot
        # Tokens whose KV the draft model has computed.
        self._computed = np.zeros(slots, np.int64)
        self._sources = np.full((slots, limits.max_source + 1), NOTHING, np.int64)

    @classmethod
    def of(
        cls, limits: DraftLimits | None, batch: Batch, pages: PagePool, counters: Counter[str]
    ) -> "Drafter | None":
        """None without `limits`: nothing drafts."""
        return None if limits is None else cls(batch, pages, limits, counters)

    def begin_step(self) -> None:
        """Decides whether sequences draft in the next step, and which of them must wait."""
        batch = self.batch
        self._is_on = 0 < len(batch) <= self.limits.max_sequences
        might_draft = batch.active & ~batch.in_group if self._is_on else False
        batch.in_doubt = (batch.num_drafts > 0) | might_draft

    def with_drafts(self, plan: StepPlan, max_tokens: int) -> StepPlan:
        """`plan` with the drafts of its rows, and pages for them: within `max_tokens` of the step.

        None beside longer chunks of prompts than a row that drafts has, nor beside readouts.
        """
        limits = self.limits
        if not self._is_on or len(plan.slots) > limits.max_sequences or len(plan.readouts):
            return plan
        if plan.query_lens.max() > limits.num_tokens + 1:
            return plan
        self._note_new(plan.slots)
        counts, tokens = self._candidates(plan, max_tokens)
        counts = np.diff(np.minimum(counts.cumsum(), max_tokens - plan.num_tokens), prepend=0)
        new_pages = self._make_room(plan, counts)
        if not counts.any():
            return plan
        self.batch.num_drafts[plan.slots] = counts
        lags = plan.kv_lens - self._computed[plan.slots]
        return _with(plan, PlannedDrafts(counts, int(counts.max()), tokens, lags), new_pages)

    def _candidates(self, plan: StepPlan, max_tokens: int) -> tuple[np.ndarray, np.ndarray | None]:
        """How many tokens each row [rows] could draft; and these, [rows, num_tokens], where they
        are looked up."""
        batch, limits, slots, lengths = self.batch, self.limits, plan.slots, plan.kv_lens
        may = plan.samples & (plan.query_lens == 1) & ~batch.in_group[slots]
        counts = (batch.max_len[slots] - lengths - 1).clip(0, limits.num_tokens) * may
        if limits.lookup is not None:
            tokens, num_tokens = self._look_up(slots, lengths, limits.lookup)
            return np.minimum(counts, num_tokens), tokens
        lags = (lengths - self._computed[slots]) * (counts > 0)
        return counts * (lags.cumsum() <= max_tokens), None  # the draft model's first pass

    def _note_new(self, slots: np.ndarray) -> None:
        """Begins anew with those of `slots` that have another owner."""
        turns = self.batch.turn[slots]
        for slot in slots[self._turn[slots] != turns].tolist():
            self._computed[slot] = 0
            self._sources[slot] = NOTHING
            source = self.batch.request_at(slot).lookup_ids
            if source is not None:
                kept = source[: self.limits.max_source]
                self._sources[slot, : len(kept)] = kept
        self._turn[slots] = turns

    def _look_up(
        self, slots: np.ndarray, lengths: np.ndarray, sizes: LookupSizes
    ) -> tuple[np.ndarray, np.ndarray]:
        """Drafts [rows, num_tokens] and their number [rows]."""
        longest = int(lengths.max())
        own = self.batch.tokens[slots, : longest + 1].copy()
        columns = np.arange(longest + 1)
        own[columns >= lengths[:, None]] = NOTHING
        last = lengths[:, None] - np.arange(sizes.longest, 0, -1)
        tails = np.take_along_axis(own, last.clip(0), axis=1)
        texts = np.concatenate([self._sources[slots], own], axis=1)
        return sizes.look_up(texts, lengths, tails, self.limits.num_tokens)

    def _make_room(self, plan: StepPlan, counts: np.ndarray) -> NewPages:
        """Lowers `counts` [rows] to what pages hold, with one more for each row if there are
        enough: those are returned."""
        batch, slots = self.batch, plan.slots
        room = batch.num_self_pages[slots] * batch.page_size - plan.kv_lens
        short = np.flatnonzero((counts > room) & ~np.isin(slots, plan.new_pages.slots))
        new_pages = NO_NEW_PAGES
        if len(short) and self.pages.num_available - len(short) >= len(batch):
            pages = self.pages.allocate(len(short))
            assert pages is not None
            new_pages = NewPages(slots[short], batch.add_pages(slots[short], pages), pages)
            room[short] += batch.page_size
        np.minimum(counts, room, out=counts)
        return new_pages

    def settle(self, plan: StepPlan, is_live: np.ndarray, result: StepResult) -> None:
        """Notes which drafts of `plan` hold, of rows that are `is_live` [rows]."""
        drafts, accepted = plan.drafts, result.accepted
        assert drafts is not None
        assert accepted is not None
        rows = np.flatnonzero(is_live & (drafts.counts > 0))
        slots, counts, accepted = plan.slots[rows], drafts.counts[rows], accepted[rows]
        # The draft model has not computed the last token that it drafted.
        self._computed[slots] = plan.known_lens[rows] + np.minimum(accepted, counts - 1)
        self._counters["drafts"] += len(rows)
        self._counters["draft_tokens"] += int(counts.sum())
        self._counters["accepted_draft_tokens"] += int(accepted.sum())
        self._counters["tokens"] += int(accepted.sum())


def _with(plan: StepPlan, drafts: PlannedDrafts, new_pages: NewPages) -> StepPlan:
    """`plan`, whose rows are in order again: those with one query first."""
    query_lens, kv_lens = plan.query_lens + drafts.counts, plan.kv_lens + drafts.counts
    order = np.argsort(query_lens > 1, kind="stable")
    if len(new_pages.slots):
        pairs = zip(astuple(plan.new_pages), astuple(new_pages), strict=True)
        new_pages = NewPages(*map(np.concatenate, pairs))
    return replace(
        plan,
        slots=plan.slots[order],
        ids=plan.ids[order],
        query_lens=query_lens[order],
        kv_lens=kv_lens[order],
        samples=plan.samples[order],
        new_pages=new_pages if len(new_pages.slots) else plan.new_pages,
        drafts=drafts.in_order(order),
    )
