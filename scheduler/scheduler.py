"""Continuous batching for encoder/decoder models: which sequences of one decoder replica run."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from antiphon.config.errors import describe
from antiphon.kv.pages import PagePool
from antiphon.scheduler.admission import AdmissionControl
from antiphon.scheduler.batch import Batch
from antiphon.scheduler.beam_texts import NewText, no_texts
from antiphon.scheduler.drafts import Drafter
from antiphon.scheduler.embeddings import with_embeddings
from antiphon.scheduler.encode_work import EncodeCommand
from antiphon.scheduler.generated import FinishReason
from antiphon.scheduler.growth import Growth
from antiphon.scheduler.intake import Intake
from antiphon.scheduler.late_searches import LateSearches
from antiphon.scheduler.limits import Limits, Refusal, refusal
from antiphon.scheduler.outputs import Outputs
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.planning import StepPlanner
from antiphon.scheduler.prefixes import PrefixCache
from antiphon.scheduler.queues import OpenQueue
from antiphon.scheduler.request import (
    Finished,
    Incarnation,
    Request,
    RequestId,
    RequestMetrics,
    RequestState,
)
from antiphon.scheduler.residency import Residency
from antiphon.scheduler.results import reason_of_end, settle

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

    The scheduler sees page ids and content keys; never a tensor or an actor, nor a text but as
    `new_text` makes it for stop strings of beams. It belongs to one thread. `clock`: seconds, never
    set back. Deadlines are of it; a request brings seconds, because clocks of machines differ."""

    def __init__(
        self,
        limits: Limits,
        pages: PagePool,
        clock: Callable[[], float] = time.monotonic,
        new_text: NewText = no_texts,
    ) -> None:
        self.limits, self.pages, self._clock = limits, pages, clock
        self.counters: Counter[str] = Counter()
        self.batch = Batch(limits.max_num_seqs, limits.max_len, limits.page_size, limits.num_lanes)
        drafter = Drafter.of(limits.drafts, self.batch, pages, self.counters)
        self.planner = StepPlanner(self.batch, limits.step_budget, drafter)
        self.prefixes = PrefixCache(pages, limits.page_size, self.counters, limits.prefix_caching)
        self.residency = Residency(self.batch, self.prefixes, new_text)
        self.intake = Intake(limits, self.prefixes, clock, self.counters)
        self.encodes = self.intake.encodes
        self.late = LateSearches(new_text, self.intake.add, self.finish)
        self.requests: dict[RequestId, Request] = {}  # all that have not ended
        self._deadlines: OpenQueue[tuple[float, int], Request] = OpenQueue()
        self._loads: dict[int, int] = {}  # of open requests, by order of arrival
        self._arrivals = self._open_tokens = 0  # the latter: their sum
        self.outputs = Outputs(limits.max_num_seqs)
        self.admission = AdmissionControl(self.intake, self.residency, self.planner, self.outputs)
        self.growth = Growth(self.intake, self.residency, self.counters)

    # ------------------------------------------------------------------ arrival

    def add(self, request: Request) -> None:
        """Queues `request`, or ends it at once as `refusal` says. With `generated` tokens it goes
        on behind these. One that is here already (a message that came twice) is left as it is."""
        if request.id in self.requests:
            return
        self._arrivals += 1
        request.order = self._arrivals
        request.metrics = RequestMetrics(arrived_at=self._clock())
        self.requests[request.id] = request
        try:
            refused = refusal(request, self.limits, len(self.requests), self.pages.num_pages)
            is_late = self.late.takes(request)
        except Exception as error:  # unforeseen: it must not end the loop that serves everybody
            refused = Refusal(f"cannot be served: {describe(error)}")
            request.priority = 0  # may be what is wrong, and `finish` sorts by it
        if refused:
            return self.finish(request, refused.state, error=refused.why)
        if reason := reason_of_end(request):
            return self.finish(request, RequestState.DONE, reason=reason)
        self._loads[request.order] = load = request.load
        self._open_tokens += load
        if not is_late:
            self.intake.add(request)
        if request.timeout is not None:
            request.deadline = self._clock() + request.timeout
            self._deadlines.push((request.deadline, request.order), request)

    def fork(self, parent: Request, child: Request) -> None:
        """Adds `child`, which goes on behind its `generated` tokens; without any, behind those that
        `parent`, with the same prompt, has generated if it runs.

        If `parent` runs, with the same inputs and settings (seed and length apart), and there is a
        slot, `child` runs at once and shares what is computed of their common tokens. Otherwise it
        waits in line, and computes all of them."""
        runs = parent.state is RequestState.RUNNING and parent.num_slots == 1
        if runs and not child.generated:
            self.batch.save(parent.slot, child)
            child.logprobs = list(parent.logprobs)
        self.add(child)
        is_alike = (child.params, child.rules) == (parent.params, parent.rules)
        if runs and is_alike and not child.state.final and self.residency.fork(parent, child):
            self.intake.skip(child)
            self.outputs.admit(child)
            self.counters["forks"] += 1

    def cancel(self, request_id: RequestId) -> None:
        """Ends a request as CANCELLED; one that has ended is left as it is."""
        if request := self.requests.get(request_id):
            self.finish(request, RequestState.CANCELLED, error="cancelled by the caller")

    def stop(self, request_id: RequestId) -> None:
        """Ends a request as DONE, because its text met a stop string."""
        if request := self.requests.get(request_id):
            self.finish(request, RequestState.DONE, reason="stop")

    def detach(self, frontend: str) -> None:
        """A frontend is gone: nobody waits for its requests."""
        own = [request for request in self.requests.values() if request.id.frontend == frontend]
        for request in own:
            self._remove(request, RequestState.CANCELLED)
        self.outputs.forget(frontend)

    def load(self) -> dict[str, int]:
        """For heartbeats, from any thread: what routers and `Suspects` read, and more."""
        return {
            "tokens": self._open_tokens,
            "open": len(self.requests),
            "slots": sum(request.num_slots for request in list(self.requests.values())),
            "senders": len({name.frontend for name in list(self.requests)}),
            "trial": self.intake.trials.mark,
            "running": len(self.batch),
        }

    # ------------------------------------------------------------------ encoder work

    def next_encodes(self) -> list[EncodeCommand]:
        """Encoder work to ask for now, in the order of the waiting requests, within the budget."""
        self.late.begin_ready()
        return self.intake.next_encodes()

    def encoded(self, key: str, is_written: bool = False) -> None:
        """The hidden states of `key` are in the arena. Requests that need no others are ready.
        Changes nothing for states that come twice or late. `is_written`: as the ledger's."""
        self.intake.encoded(key, is_written)

    def encode_failed(self, key: str, error: str, sender: Incarnation | None = None) -> None:
        """The encoder could not do `key`: the requests that wait for it fail, and no others.
        `sender`: says nothing of what another encoder, or life of it, was asked for since."""
        for request in self.encodes.fail(key, sender):
            self.finish(request, RequestState.FAILED, error=error)

    def input_gone(self, key: str, error: str, sender: Incarnation | None = None) -> None:
        """The encoder could not get the input of `key`: requests of other frontends, or that came
        meanwhile, have it asked for again. One that has waited so a few times fails."""
        for request in self.encodes.fail(key, sender):
            request.inputs_gone += 1
            if request.inputs_gone > MAX_INPUTS_GONE:
                self.finish(request, RequestState.FAILED, error=error)
            else:
                self.intake.ask_again([request])

    def withdrawn(self, keys: Sequence[str], sender: Incarnation | None = None) -> None:
        """The encoder will not begin `keys`: who joined since asks again. `sender`: as above."""
        self.intake.withdrawn(keys, sender)

    def set_encoders(self, epochs: Mapping[str, int]) -> None:
        """The encoders that take work now, and the epoch of each; any without this call.

        Work of those that are gone or were restarted is lost: who waits for it asks
        again. Requests wait while there is none.
        """
        for request in self.intake.set_encoders(epochs):
            error = "given up: the encoders that worked on its input alone died, twice"
            self.finish(request, RequestState.FAILED, error=error)

    def encoder_lost(self, encoder: str) -> None:
        """It takes no messages: who waits for its work asks others, or waits for news of it."""
        self.intake.ask_again(self.encodes.leave_encoder(encoder))

    # ------------------------------------------------------------------ planning a step

    def step(self, lane: int = 0) -> StepPlan | None:
        """Plans the next step of `lane`; who samples has a pending token until `postprocess`.
        None when nothing of this lane can run before results or hidden states come."""
        self.expire()
        self.planner.begin_step()
        new_pages, preempted = self.growth.grow(lane)
        if new_pages is None:
            return None
        admissions, cross_writes = ([], []) if preempted else self.admission.admit(lane)
        plan = self.planner.plan(admissions, cross_writes, new_pages, lane)
        return None if plan is None else with_embeddings(plan, self.batch, self.encodes)

    def expire(self) -> None:
        """Ends requests whose deadline has passed, and those whose encoder work is lost."""
        while (request := self._deadlines.first()) and request.deadline <= (now := self._clock()):
            waited = now - request.deadline + (request.timeout or 0.0)
            why = f"its deadline passed after {waited:.3f} s"
            self.finish(request, RequestState.EXPIRED, error=why)
        for error, requests in self.encodes.drop_overdue():
            for request in requests:
                if not request.state.final:  # it may have waited for several inputs
                    self.finish(request, RequestState.FAILED, error=error)

    # ------------------------------------------------------------------ results of a step

    def postprocess(self, plan: StepPlan, result: StepResult) -> None:
        """Appends the sampled tokens and ends the sequences that are done."""
        self.counters["steps"] += 1
        self.counters["tokens"] += int(plan.samples.sum())
        is_live, now = self.batch.is_live(plan), self._clock()
        self.prefixes.publish(self.batch, plan, is_live)
        self.planner.note_drafts(plan, is_live, result)
        for request, reason in settle(self.batch, plan, is_live, result, self.outputs, now):
            self.finish(request, RequestState.DONE, reason=reason)
        for request, lacks_pages in self.residency.beams.settle(plan, is_live, result, now):
            if lacks_pages:
                self.growth.preempt(request)
            elif request.hypotheses:
                self.finish(request, RequestState.DONE)
            else:
                self.finish(request, RequestState.FAILED, error="its rules bar every token")

    def fail_step(self, plan: StepPlan, error: str) -> None:
        """Fails the sequences of a step that could not be run, and those that came later to share
        cross KV that it should have written. That KV is forgotten; hidden states that may not have
        been taken for it, or for prompts, are unwanted."""
        for request in self.batch.dependents(plan):
            self.finish(request, RequestState.FAILED, error=error)
        unwritten = {write.key for write in plan.cross_writes}
        for request in self.batch.running():
            if request.cross is not None and request.cross.key in unwritten:
                self.finish(request, RequestState.FAILED, error=error)
        for key in unwritten:
            self.pages.cross.discard(key)
        self.encodes.add_unwanted(unwritten.union(plan.spent, *(w.keys for w in plan.cross_writes)))

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
        """Ends `request`, whatever its end, and tells its frontend."""
        slot = request.slot
        self._remove(request, state)
        self.outputs.add_end(request, Finished.of(request, reason, error), slot)

    def _remove(self, request: Request, state: RequestState) -> None:
        """Pages are freed here and, on preemption, in `Growth`."""
        was_running = request.state is RequestState.RUNNING
        request.move(state)
        if was_running:
            self.residency.leave(request)
        self.intake.leave(request, was_running)
        self._deadlines.discard((request.deadline, request.order))
        request.metrics.finished_at = self._clock()
        self.counters[state.value] += 1
        del self.requests[request.id]
        self._open_tokens -= self._loads.pop(request.order, 0)

    @property
    def idle(self) -> bool:
        """True if nothing can run and no encoder work can be asked for until something arrives."""
        return not len(self.batch) and self.intake.idle
