"""Continuous batching for encoder/decoder models: which sequences of one decoder replica run."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from antiphon.kv.pages import PagePool
from antiphon.scheduler.batch import Batch
from antiphon.scheduler.encodes import EncodeCommand, EncodeLedger
from antiphon.scheduler.limits import Limits, refusal
from antiphon.scheduler.outputs import Outputs
from antiphon.scheduler.plan import Admission, CrossWrite, StepPlan, StepResult
from antiphon.scheduler.planning import StepPlanner
from antiphon.scheduler.queues import OpenQueue
from antiphon.scheduler.request import (
    Finished,
    FinishReason,
    Media,
    Request,
    RequestId,
    RequestState,
)
from antiphon.scheduler.residency import Residency
from antiphon.scheduler.results import settle

MAX_INPUTS_GONE = 3  # a frontend that says so of an open request will say so again


class Scheduler:
    """The requests of one decoder replica, from their arrival to their only exit.

    The life of a request, with the method that moves it on:

        add            WAITING   queued by priority, then by arrival
        next_encodes   ENCODING  an encoder is asked for its hidden states, or was so already
        encoded        READY     they are here (or its cross KV is still cached: no encoder needed)
        step           RUNNING   it has a slot of the batch and pages; its prompt begins to run
        postprocess              one more of its tokens is known; again with every later step.
                                 Preempted when pages run short, it is READY once more
        finish         DONE, or FAILED, CANCELLED, EXPIRED, REFUSED: the only exit, from any state

    A replica calls, again and again: `next_encodes`, `step`, then `postprocess` with the step's
    result (or `fail_step`), and `outputs.pop`. Results may come one or more steps late: the plans
    in between count the missing tokens as pending. `encodes` holds all encoder work.

    The scheduler sees page ids and content keys; never a tensor, an actor or a text. It belongs to
    one thread. `clock`: seconds, never set back. Deadlines are of this clock; a request brings
    seconds with it, because clocks of other machines differ.
    """

    def __init__(
        self, limits: Limits, pages: PagePool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits, self.pages, self._clock = limits, pages, clock
        self.counters: Counter[str] = Counter()
        self.batch = Batch(
            limits.max_num_seqs, limits.max_len, limits.max_cross_len, limits.page_size
        )
        self.planner = StepPlanner(self.batch, limits.step_budget)
        self.residency = Residency(self.batch, pages)
        self.encodes = EncodeLedger(
            limits.encode_ahead_tokens, limits.encode_timeout, clock, self.counters
        )
        self.requests: dict[RequestId, Request] = {}  # all that have not ended
        self._waiting: OpenQueue[tuple[int, int], Request] = OpenQueue()
        self._ready: OpenQueue[tuple[int, int], Request] = OpenQueue()
        self._deadlines: OpenQueue[tuple[float, int], Request] = OpenQueue()
        self._arrivals = 0
        self.open_tokens = 0  # of the encoder, of the inputs of `requests`
        self.outputs = Outputs(limits.max_num_seqs)

    # ------------------------------------------------------------------ arrival

    def add(self, request: Request) -> None:
        """Queues `request`, or ends it at once as REFUSED when it can never run here.

        A request that is here already (a message that came twice) is left as it is.
        """
        if request.id in self.requests:
            return
        self._arrivals += 1
        request.order = self._arrivals
        self.requests[request.id] = request
        self.open_tokens += request.num_input_tokens
        try:
            why = refusal(request, self.limits, len(self.requests), self.pages.num_pages)
        except Exception as error:  # unforeseen: it must not end the loop that serves everybody
            why = f"cannot be served: {type(error).__name__}: {error}"
            request.priority = 0  # may be what is wrong, and `finish` sorts by it
        if why:
            return self.finish(request, RequestState.REFUSED, error=why)
        if request.inputs:
            self._waiting.push(request.sort_key, request)
        else:
            self._enqueue(request, RequestState.READY)
        if request.timeout is not None:
            request.deadline = self._clock() + request.timeout
            self._deadlines.push((request.deadline, request.order), request)

    def cancel(self, request_id: RequestId) -> None:
        """Ends a request as CANCELLED; one that has ended already is left as it is."""
        if request := self.requests.get(request_id):
            self.finish(request, RequestState.CANCELLED, error="cancelled by the caller")

    def stop(self, request_id: RequestId) -> None:
        """Ends a request as DONE, because its text met a stop string."""
        if request := self.requests.get(request_id):
            self.finish(request, RequestState.DONE, reason="stop")

    # ------------------------------------------------------------------ encoder work

    def next_encodes(self) -> list[EncodeCommand]:
        """Encoder work to ask for now, in the order of the waiting requests, within the budget."""
        commands: list[EncodeCommand] = []
        while request := self._waiting.first():
            inputs = self._uncached(request)
            if not self.encodes.allows(inputs):
                break
            self._waiting.discard(request.sort_key)
            new = {media.key: media for media in inputs if media.key not in self.encodes}
            commands += [self.encodes.ask(media, request.encoder) for media in new.values()]
            self.counters["cross_cache_hits"] += len(request.inputs) - len(new)
            arrived = [self.encodes.join(request, media) for media in inputs]
            if all(arrived):
                self._enqueue(request, RequestState.READY)
            else:
                request.move(RequestState.ENCODING)
        return commands

    def _uncached(self, request: Request) -> list[Media]:
        """The inputs of `request` whose hidden states it needs: all without cached cross KV."""
        return [
            media
            for media in request.inputs
            if media.position is not None or media.key not in self.pages
        ]

    def _has_inputs(self, request: Request) -> bool:
        return all(self.encodes.has_arrived(media.key) for media in self._uncached(request))

    def _enqueue(self, request: Request, state: RequestState) -> None:
        request.move(state)
        queue = self._ready if state is RequestState.READY else self._waiting
        queue.push(request.sort_key, request)

    def encoded(self, key: str) -> None:
        """The hidden states of `key` are in the handoff buffer. Requests that need no others are
        ready."""
        for request in self.encodes.arrive(key):
            if request.state is RequestState.ENCODING and self._has_inputs(request):
                request.metrics.encoded_at = time.time()
                self._enqueue(request, RequestState.READY)

    def encode_failed(self, key: str, error: str) -> None:
        """The encoder could not do `key`: the requests that wait for it fail, and no others."""
        for request in self.encodes.fail(key):
            self.finish(request, RequestState.FAILED, error=error)

    def input_gone(self, key: str, error: str) -> None:
        """The encoder could not get the input of `key`: requests of other frontends, or that came
        meanwhile, have it asked for again. One that has waited so a few times fails."""
        for request in self.encodes.input_gone(key):
            request.inputs_gone += 1
            if request.inputs_gone > MAX_INPUTS_GONE:
                self.finish(request, RequestState.FAILED, error=error)
            else:
                self._enqueue(request, RequestState.WAITING)

    def withdrawn(self, keys: Sequence[str]) -> None:
        """The encoder will not begin `keys`; requests that joined meanwhile ask for them again."""
        for key in keys:
            for request in self.encodes.confirm_withdrawal(key):
                if request.state is RequestState.ENCODING:  # of several inputs, this is the first
                    self._enqueue(request, RequestState.WAITING)

    # ------------------------------------------------------------------ planning a step

    def step(self) -> StepPlan | None:
        """Plans the next step; sequences that sample have one pending token more until
        `postprocess`.

        None when nothing can run before a result or hidden states that are still to come.
        """
        self.expire()
        preempted = False
        while not self.residency.grow():
            if self.batch.pending.any():
                # A preempted sequence must know its tokens, and one that ends may leave its pages.
                return None
            self._preempt(max(self.batch.running(), key=lambda request: request.sort_key))
            preempted = True
        admissions, cross_writes = ([], []) if preempted else self._admit()
        return self.planner.plan(admissions, cross_writes)

    def expire(self) -> None:
        """Ends requests whose deadline has passed, and those whose encoder work is lost."""
        while (request := self._deadlines.first()) and request.deadline <= (now := self._clock()):
            waited = now - request.deadline + (request.timeout or 0.0)
            error = f"its deadline passed after {waited:.3f} s"
            self.finish(request, RequestState.EXPIRED, error=error)
        for error, requests in self.encodes.drop_overdue():
            for request in requests:
                if not request.state.final:  # it may have waited for several inputs
                    self.finish(request, RequestState.FAILED, error=error)

    def _preempt(self, request: Request) -> None:
        """Puts `request` back into the queue with its tokens. Its self KV is computed anew when it
        returns; its cross KV may survive in the cache."""
        self.residency.leave(request)
        request.metrics.preemptions += 1
        self.counters["preemptions"] += 1
        self._enqueue(request, RequestState.READY)

    def _admit(self) -> tuple[list[Admission], list[CrossWrite]]:
        """Admits ready requests in order, while slots and pages last and the step has a token left
        for each. No request overtakes the first that does not fit."""
        admissions: list[Admission] = []
        writes: list[CrossWrite] = []
        budget = self.planner.free()
        while not self.batch.full and (request := self._ready.first()):
            if not self._has_inputs(request):
                self._ready.discard(request.sort_key)
                self._enqueue(request, RequestState.WAITING)  # evicted while it waited
                continue
            if not (budget.has_room(request.length) and self.residency.fits(request)):
                break
            budget = budget.without(request.length)
            self._ready.discard(request.sort_key)
            admission, write = self.residency.enter(request)
            request.move(RequestState.RUNNING)
            self.outputs.admit(request)
            admissions.append(admission)
            if write is not None:
                self.encodes.consume(write.key)
                writes.append(write)
        return admissions, writes

    # ------------------------------------------------------------------ results of a step

    def postprocess(self, plan: StepPlan, result: StepResult) -> None:
        """Appends the sampled tokens and ends the sequences that are done."""
        self.counters["steps"] += 1
        self.counters["tokens"] += int(plan.samples.sum())
        for request, reason in settle(self.batch, plan, result, self.outputs):
            self.finish(request, RequestState.DONE, reason=reason)

    def fail_step(self, plan: StepPlan, error: str) -> None:
        """Fails the sequences of a step that could not be run, and those that came later to share
        cross KV that it should have written. That KV is forgotten; hidden states that may not have
        been taken for it are unwanted."""
        for slot in plan.slots[self.batch.live_rows(plan)]:
            self.finish(self.batch.request_at(slot), RequestState.FAILED, error=error)
        unwritten = {write.key for write in plan.cross_writes}
        for request in self.batch.running():
            if request.cross is not None and request.cross.key in unwritten:
                self.finish(request, RequestState.FAILED, error=error)
        for key in unwritten:
            self.pages.discard(key)
        self.encodes.add_unwanted(unwritten)

    def fail_slot(self, slot: int, error: str) -> None:
        """Fails the request that has `slot`, whose settings the device could not take."""
        self.finish(self.batch.request_at(slot), RequestState.FAILED, error=error)

    # ------------------------------------------------------------------ the one exit

    def finish(
        self,
        request: Request,
        state: RequestState,
        reason: FinishReason | None = None,
        error: str | None = None,
    ) -> None:
        """Ends `request`, whatever its end. Pages are freed here and, on preemption, in
        `_preempt`."""
        was_running = request.state is RequestState.RUNNING
        request.move(state)
        if was_running:
            self.residency.leave(request)
        for queue in (self._waiting, self._ready):
            queue.discard(request.sort_key)
        self._deadlines.discard((request.deadline, request.order))
        self.encodes.leave(request)
        request.metrics.finished_at = time.time()
        self.counters[state.value] += 1
        del self.requests[request.id]
        self.open_tokens -= request.num_input_tokens
        self.outputs.add_end(request, Finished.of(request, reason, error))

    @property
    def idle(self) -> bool:
        """True if nothing can run and no encoder work can be asked for until something arrives."""
        if len(self.batch) or len(self._ready):
            return False
        waiting = self._waiting.first()
        return waiting is None or not self.encodes.allows(self._uncached(waiting))
