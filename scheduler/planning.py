"""Which rows the next step has, and how many of its tokens each of them computes."""

import msgspec
import numpy as np
from msgspec.structs import replace

from antiphon.scheduler.batch import Batch
from antiphon.scheduler.demands import first_readout
from antiphon.scheduler.drafts import Drafter
from antiphon.scheduler.plan import (
    NO_NEW_PAGES,
    NO_READOUTS,
    Admission,
    CrossWrite,
    NewPages,
    Readouts,
    StepPlan,
    StepResult,
)


class StepBudget(msgspec.Struct, frozen=True):
    """What a step has room for. Decodes come first: all of them run, and prompts share the rest.

    tokens:  of all rows
    prompt:  of prompts, beyond one for each of them: what CUDA graphs were captured for
    """

    tokens: int
    prompt: int

    def without(self, num_tokens: int) -> "StepBudget":
        """What is left beside a row of so many tokens."""
        return StepBudget(self.tokens - num_tokens, self.prompt - num_tokens + 1)

    def beside(self, num_decodes: int) -> "StepBudget":
        """What is left beside so many rows of one token."""
        return replace(self, tokens=self.tokens - num_decodes) if num_decodes else self

    def has_room(self, num_tokens: int) -> bool:
        """True if another row can begin with some of its `num_tokens`."""
        return self.tokens > 0 and (self.prompt > 0 or num_tokens == 1)

    def chunks(self, remaining: np.ndarray) -> np.ndarray:
        """How many of their `remaining` [prompts] tokens prompts compute, served in order.

        The first ones run whole, at most one of them in part, and the others wait.
        """
        before = remaining.cumsum() - remaining
        prompt = self.prompt - (before - np.arange(len(remaining)))
        by_prompt = np.where(prompt > 0, prompt + 1, 0)
        chunks: np.ndarray = np.minimum(self.tokens - before, by_prompt).clip(0, remaining)
        return chunks


class StepPlanner:
    """Plans the steps of `batch`, each within `budget`. `drafter`: None where nothing drafts."""

    def __init__(self, batch: Batch, budget: StepBudget, drafter: Drafter | None = None) -> None:
        self.batch, self.budget, self.drafter = batch, budget, drafter

    def begin_step(self) -> None:
        """Before anything of the next step is decided."""
        if self.drafter is not None:
            self.drafter.begin_step()

    def note_drafts(self, plan: StepPlan, is_live: np.ndarray, result: StepResult) -> None:
        """What has become of the drafts of `plan`, of its rows that are `is_live` [rows]."""
        if self.drafter is not None and plan.drafts is not None:
            self.drafter.settle(plan, is_live, result)

    def free(self, lane: int = 0) -> StepBudget:
        """What the running sequences of `lane` leave of its next step."""
        remaining = self.batch.length - self.batch.computed  # of a free slot: 0
        if self.batch.num_lanes > 1:
            remaining = remaining[self.batch.in_lane(lane)]
        prompts = remaining[remaining > 1]
        num_decodes = self.batch.lane_sizes[lane] - len(prompts)
        total = int(prompts.sum())
        return StepBudget(
            self.budget.tokens - num_decodes - total, self.budget.prompt - total + len(prompts)
        )

    def plan(
        self,
        admissions: list[Admission],
        cross_writes: list[CrossWrite],
        new_pages: NewPages = NO_NEW_PAGES,
        lane: int = 0,
    ) -> StepPlan | None:
        """The next step of `lane`, with what it must know. None when nothing can run.

        A row computes as many of its tokens as the budget allows; if that is all of
        them, it also samples the next one, which is pending from now on.
        """
        batch, slots = self.batch, self.batch.runnable(lane)
        if not len(slots):
            return None
        changes = batch.views.advance(slots, batch.computed[slots], batch.page_size)
        remaining = batch.views.remaining(slots, batch.computed[slots], batch.length[slots])
        slots, query_lens = self._rows(slots, remaining)
        kv_lens, lengths = batch.computed[slots] + query_lens, batch.length[slots]
        samples = kv_lens == lengths
        batch.computed[slots] = kv_lens
        batch.length[slots] += samples
        batch.pending[slots] += samples
        batch.num_plans += 1
        forks, page_copies, moves = batch.pop_changes()
        plan = StepPlan(
            admissions=admissions,
            cross_writes=cross_writes,
            slots=slots,
            ids=batch.ids[slots],
            query_lens=query_lens,
            kv_lens=kv_lens,
            samples=samples,
            new_pages=new_pages,
            page_copies=page_copies,
            forks=forks,
            beam_moves=moves,
            number=batch.num_plans,
            readouts=self._readouts(slots, query_lens, kv_lens),
            lane=lane,
            cross_changes=changes,
        )
        return plan if self.drafter is None else self.drafter.with_drafts(plan, self.budget.tokens)

    def _rows(self, slots: np.ndarray, remaining: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The slots [rows] that run, of the runnable `slots` [n] with `remaining` [n]
        tokens to compute, and how many each computes [rows]. Rows with one token come
        first."""
        is_prompt = remaining > 1
        if not is_prompt.any():
            return slots, remaining
        decodes, prompts = slots[~is_prompt], slots[is_prompt]
        in_order = np.argsort(self.batch.turn[prompts])  # no later one overtakes an earlier one
        prompts, remaining = prompts[in_order], remaining[is_prompt][in_order]
        chunks = self.budget.beside(len(decodes)).chunks(remaining)
        slots = np.concatenate([decodes, prompts])
        query_lens = np.concatenate([np.ones(len(decodes), np.int64), chunks])
        order = np.argsort(query_lens > 1, kind="stable")
        order = order[query_lens[order] > 0]
        return slots[order], query_lens[order]

    def _readouts(self, slots: np.ndarray, query_lens: np.ndarray, kv_lens: np.ndarray) -> Readouts:
        """What the requests of some rows want to read among the tokens that these compute."""
        if not self.batch.asking["readouts"]:
            return NO_READOUTS
        next_ = self.batch.next_readout[slots]
        asking = np.flatnonzero((next_ > 0) & (next_ <= kv_lens))
        if not len(asking):
            return NO_READOUTS
        starts = query_lens.cumsum() - kv_lens  # of the step's tokens, less their position
        readouts = []
        for row in asking.tolist():
            slot, kv_len = slots[row], kv_lens[row]
            wanted = self.batch.request_at(slot).readouts
            readouts += [
                (row, starts[row] + readout.position, readout.token_id, index)
                for index, readout in enumerate(wanted)
                if kv_len - query_lens[row] <= readout.position < kv_len
            ]
            self.batch.next_readout[slot] = first_readout(wanted, kv_len)
        return Readouts(*np.array(readouts, np.int64).T)
