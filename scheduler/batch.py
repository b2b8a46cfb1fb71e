"""The running sequences as numpy arrays with one row (slot) each, so that a step needs
no loop over them.

The device's mirror is `decoder/state.py`, which has the same slots: it holds the tokens
that a step reads, page tables, stop ids and sampling settings. Lengths and new pages
travel there with each `StepPlan`. `planning.py` says what the next step computes.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from antiphon.kv.pages import pages_for
from antiphon.scheduler.beam_plan import BeamMoves
from antiphon.scheduler.cross_views import RunningViews
from antiphon.scheduler.demands import DEMANDS, Demand, demands_of, first_readout
from antiphon.scheduler.generated import StopReason
from antiphon.scheduler.plan import Fork, StepPlan
from antiphon.scheduler.request import Request

MAX_STOP_IDS = 32
_NO_TOKEN = -1


class Batch:
    """`max_seqs` slots; lengths in tokens. A free slot is all zeros.

    A sequence's tokens, from its slot's point of view:

        |  prompt  |  generated  |  pending  |
        0      prompt_len                 length

    `computed` of them have their self KV written, or will have by a step in flight; the
    next steps compute the others. `pending` tokens are sampled by steps in flight: the
    device has them, the host does not yet. A row of `waits_for_host` runs only while it
    has none.

    With several lanes, each sequence belongs to one of them from its admission on, and
    a step runs sequences of one lane. So steps of different lanes can be under way
    without waiting for each other's tokens.
    """

    def __init__(self, max_seqs: int, max_len: int, page_size: int, num_lanes: int = 1) -> None:
        self.page_size, self.num_lanes = page_size, num_lanes
        # By slot: what is zero while a slot is free, cleared together. A row for each name.
        self._numbers, self._flags = np.zeros((15, max_seqs), int), np.zeros((5, max_seqs), bool)
        numbers: Iterator[np.ndarray] = iter(self._numbers)
        (
            self.ids,  # orders of arrival of the requests, from 1
            self.turn,  # of admission
            self.lane,
            # A lane that is short of pages waits until the tokens of a sequence of another lane
            # are known, to preempt it: number of the lane, from 1; 0: none.
            self.held_for,
            self.length,  # of `tokens`, the pending ones included
            self.pending,
            self.computed,
            self.prompt_len,
            self.max_len,
            self.inputs_end,  # see `Request.inputs_end`
            self.next_readout,  # tokens up to there; 0: none
            self.num_drafts,  # of a step in flight
            self.num_self_pages,
            self.num_published,  # of them, see `PrefixCache`
            self.forked_after,  # so many plans; 0: not forked
        ) = numbers
        flags: Iterator[np.ndarray] = iter(self._flags)
        # `in_group`: its request has several slots, see `Beams`.
        self.active, self.streams, self.wants_logprobs, self.waits_for_host, self.in_group = flags
        self.lane_sizes = [0] * num_lanes  # sequences of each
        self.requests: list[Request | None] = [None] * max_seqs
        self.tokens = np.zeros((max_seqs, max_len), np.int64)  # prompt and generated
        self.stop_ids = np.full((MAX_STOP_IDS, max_seqs), _NO_TOKEN, np.int64)
        self._most_stop_ids = 0  # of any sequence so far
        self.logprobs = np.zeros((max_seqs, max_len), np.float32)  # of generated tokens
        self.restricted_logprob = np.zeros(max_seqs)  # the sum of those of generated tokens
        # Rows that run only while they have no pending token, because of drafts, see `Drafter`.
        self.in_doubt: np.ndarray | None = None
        self.self_table = np.zeros((max_seqs, pages_for(max_len, page_size)), np.int32)
        self._free_slots = list(range(max_seqs - 1, -1, -1))
        # How many sequences ask for what few do. A step looks for them only if there are any.
        self.asking: Counter[Demand] = Counter(dict.fromkeys(DEMANDS, 0))
        self._admissions, self.num_plans, self.views = 0, 0, RunningViews(max_seqs)
        # What the next plan must tell of forks and beams since the last one.
        self.forks: list[Fork] = []
        self.beam_moves: list[BeamMoves] = []
        self.page_copies: dict[int, int] = {}  # target -> source

    def __len__(self) -> int:
        return len(self.requests) - len(self._free_slots)

    @property
    def num_free(self) -> int:
        return len(self._free_slots)

    def admit(
        self, request: Request, self_pages: np.ndarray, lane: int = 0, computed: int = 0
    ) -> np.ndarray:
        """Gives `request` a slot, in `lane`. Returns its tokens so far [tokens]: its
        prompt, and what it generated before a preemption. `computed`: of them, whose KV
        is in its pages."""
        slot = request.slot = self._take_slot(request, lane)
        tokens = request.token_ids
        self.tokens[slot, : len(tokens)] = tokens
        self.length[slot], self.computed[slot] = len(tokens), computed
        self.max_len[slot] = request.max_len
        if stop_ids := request.rules.stop_ids:
            self.stop_ids[: len(stop_ids), slot] = stop_ids
            self._most_stop_ids = max(self._most_stop_ids, len(stop_ids))
        if request.generated:
            self._take_logprobs(request)
        if demands := demands_of(request):
            self.asking.update(demands)
            self.streams[slot] = request.streams
            self.inputs_end[slot] = request.inputs_end
            self.wants_logprobs[slot] = request.params.logprobs is not None
            self.waits_for_host[slot] = request.waits_for_host
            self.next_readout[slot] = first_readout(request.readouts, 0)
        self.num_self_pages[slot] = len(self_pages)
        self.self_table[slot, : len(self_pages)] = self_pages
        return tokens

    def reserve(self, request: Request, lane: int, page: int) -> int:
        """Gives `request`, which has a slot, another one with `page`, which does not run yet."""
        slot = self._take_slot(request, lane)
        self.self_table[slot, 0], self.num_self_pages[slot] = page, 1
        return slot

    def _take_slot(self, request: Request, lane: int) -> int:
        slot = self._free_slots.pop()
        self.lane[slot] = lane
        self.lane_sizes[lane] += 1
        self.requests[slot] = request
        self.ids[slot], self.active[slot] = request.order, True
        self.prompt_len[slot] = len(request.prompt_token_ids)
        self._admissions += 1
        self.turn[slot] = self._admissions
        return slot

    def _take_logprobs(self, request: Request) -> None:
        """Of the tokens that `request` generated before. NaN where it does not know them."""
        are_known = len(request.token_logprobs) == len(request.generated)
        generated = slice(len(request.prompt_token_ids), request.length)
        self.logprobs[request.slot, generated] = request.token_logprobs if are_known else np.nan
        self.restricted_logprob[request.slot] = request.restricted_logprob if are_known else np.nan

    def save(self, slot: int, request: Request) -> None:
        """Gives `request` the tokens that `slot` has generated so far, without pending ones."""
        generated = slice(int(self.prompt_len[slot]), int(self.length[slot] - self.pending[slot]))
        request.generated = self.tokens[slot, generated].tolist()
        request.token_logprobs = self.logprobs[slot, generated].tolist()
        request.restricted_logprob = float(self.restricted_logprob[slot])

    def remove(self, request: Request) -> np.ndarray:
        """Frees the slot of `request`, which keeps the tokens generated so far. Returns
        its self pages [pages]."""
        slot = request.slot
        self.save(slot, request)
        pages = self.self_table[slot, : self.num_self_pages[slot]].copy()
        if demands := demands_of(request):
            self.asking.subtract(demands)
        self.free(slot)
        request.slot = -1
        return pages

    def free(self, slot: int) -> None:
        """Takes `slot` from its request."""
        self.lane_sizes[self.lane[slot]] -= 1
        self._clear(slot)
        self.views.leave(slot)
        self.requests[slot] = None
        self._free_slots.append(slot)

    def _clear(self, slot: int) -> None:
        """Resets `slot` to what it was before its first owner, so that sums and tests
        over all slots need no mask. `tokens` and page tables stay: they are only read
        up to lengths, now zero."""
        for values in (self._numbers, self._flags):
            values[:, slot] = 0
        self.restricted_logprob[slot] = self.views.ends[slot] = 0
        self.stop_ids[:, slot] = _NO_TOKEN

    def check(self) -> None:
        """Asserts that free slots remember nothing. For tests."""
        assert sorted(self._free_slots) == np.flatnonzero(~self.active).tolist()
        for slot in self._free_slots:
            assert self.requests[slot] is None
            kept = self._numbers[:, slot].any() or self._flags[:, slot].any()
            kept = kept or self.restricted_logprob[slot] or self.views.ends[slot]
            assert not kept, f"slot {slot} outlives its owner"
            assert (self.stop_ids[:, slot] == _NO_TOKEN).all()
        assert (self.pending >= 0).all()
        assert (self.computed <= self.length).all()
        sizes = np.bincount(self.lane[self.active], minlength=self.num_lanes)
        assert sizes.tolist() == self.lane_sizes
        demands = (demand for request in self.running() for demand in demands_of(request))
        assert min(self.asking.values(), default=0) >= 0
        assert +self.asking == Counter(demands)

    def request_at(self, slot: int) -> Request:
        """The request that has `slot`, which is not free."""
        request = self.requests[slot]
        assert request is not None
        return request

    def running(self) -> list[Request]:
        """The requests that have a slot, by slot; those of several slots once."""
        return list(dict.fromkeys(request for request in self.requests if request is not None))

    def slots_of(self, request: Request) -> np.ndarray:
        """The slots [n] of `request`, which runs."""
        if not self.in_group[request.slot]:
            return np.array([request.slot])
        slots: np.ndarray = np.flatnonzero(self.active & (self.ids == request.order))
        return slots

    def in_lane(self, lane: int) -> np.ndarray:
        """[slots] bool: those of the sequences of `lane`."""
        return self.active if self.num_lanes == 1 else self.active & (self.lane == lane)

    def fair_size(self, lane: int, num_ready: int) -> int:
        """How many sequences `lane` may have if `num_ready` more are admitted to all
        lanes, as far as there are slots."""
        total = min(len(self) + num_ready, len(self.requests))
        if self.num_lanes == 1:
            return total
        small, more = divmod(total, self.num_lanes)
        larger = sum(size > small for size in self.lane_sizes) - (self.lane_sizes[lane] > small)
        return small + (larger < more)

    def runnable(self, lane: int = 0) -> np.ndarray:
        """Slots [n] that a step of `lane` can run: not those whose last allowed token
        is pending, nor those that wait for the host to see their pending token, or are
        to be preempted."""
        slots: np.ndarray = self._is_runnable(lane).nonzero()[0]
        return slots

    def _is_runnable(self, lane: int) -> np.ndarray:
        """[slots] bool"""
        runs: np.ndarray = self.length < self.max_len  # of a free slot, both are zero
        if self.asking["waits_for_host"]:
            runs &= ~(self.waits_for_host & (self.pending > 0))
        if self.in_doubt is not None:
            runs &= ~(self.in_doubt & (self.pending > 0))
        if self.num_lanes > 1:
            runs &= self.in_lane(lane) & (self.held_for == 0)
        return runs

    def slots_short_of_pages(self, lane: int = 0) -> np.ndarray:
        """Runnable slots [n] of `lane` whose next token has no page yet."""
        is_short = self.length > self.num_self_pages * self.page_size
        short: np.ndarray = (is_short & self._is_runnable(lane)).nonzero()[0]
        return short

    def add_pages(self, slots: np.ndarray, pages: np.ndarray) -> np.ndarray:
        """Gives `pages[i]` to the sequence in `slots[i]`. Returns the columns [n] of
        its table that they are in."""
        columns = self.num_self_pages[slots]
        self.self_table[slots, columns] = pages
        self.num_self_pages[slots] += 1
        return columns

    def pop_changes(self) -> tuple[list[Fork], dict[int, int], BeamMoves]:
        """Forks, page copies and moves since the last call."""
        changes = self.forks, self.page_copies, BeamMoves.joined(self.beam_moves)
        self.forks, self.page_copies, self.beam_moves = [], {}, []
        return changes

    def dependents(self, plan: StepPlan) -> list[Request]:
        """The requests that cannot go on if `plan` fails: those that it computes, forks
        or moves, and those forked since, which may share what it should have computed."""
        needs = self.forked_after >= plan.number
        needs[plan.slots[self.is_live(plan)]] = True
        needs[[fork.slot for fork in plan.forks if self.ids[fork.slot] == fork.id]] = True
        moves = plan.beam_moves
        needs[moves.slots[self.ids[moves.slots] == moves.ids]] = True
        return list(dict.fromkeys(self.request_at(int(slot)) for slot in np.flatnonzero(needs)))

    def is_live(self, plan: StepPlan) -> np.ndarray:
        """[rows] bool of `plan`: their slot still belongs to the request they were planned for."""
        live: np.ndarray = self.ids[plan.slots] == plan.ids
        return live

    def settle(self, slots: np.ndarray, positions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Takes in the oldest pending token of each of `slots` [n]: `tokens` [n] at
        `positions` [n] of their sequences. Returns why each stops there: `StopReason`
        [n] int8."""
        self.tokens[slots, positions] = tokens
        self.pending[slots] -= 1
        reasons = np.zeros(len(slots), np.int8)
        reasons[positions + 1 >= self.max_len[slots]] = StopReason.LENGTH.value
        stop_ids = self.stop_ids[: self._most_stop_ids].take(slots, axis=1)
        _, stopping = (tokens == stop_ids).nonzero()
        reasons[stopping] = StopReason.STOP_TOKEN.value
        return reasons
