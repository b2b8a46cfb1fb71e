"""Requests of one decoder replica from their arrival until a step takes them.

They wait for encoder work to be asked for (WAITING), for its result (ENCODING), and for
a slot of the batch (READY). Those that were preempted come before all others: they have
been in the batch. A beam search that lacks slots steps aside (`aside.py`).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from antiphon.scheduler.aside import Aside
from antiphon.scheduler.encode_work import EncodeCommand
from antiphon.scheduler.encodes import EncodeLedger
from antiphon.scheduler.fair_queue import FairQueue
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import CrossWrite
from antiphon.scheduler.prefixes import PrefixCache
from antiphon.scheduler.queues import OpenQueue
from antiphon.scheduler.request import Incarnation, Media, Request, RequestState
from antiphon.scheduler.trials import RequestTrials

ASKED_AT_ONCE = 64  # requests whose encoder work is asked for together: a batch of short texts


class Intake:
    """The queues of a scheduler, and the ledger of its encoder work."""

    def __init__(
        self,
        limits: Limits,
        prefixes: PrefixCache,
        clock: Callable[[], float],
        counters: Counter[str],
    ) -> None:
        self.prefixes, self.cross_pages = prefixes, prefixes.pages.cross
        self._clock, self._counters = clock, counters
        self.encodes = EncodeLedger(
            limits.encode_ahead_tokens, limits.encode_timeout, clock, counters
        )
        self._waiting = FairQueue(limits.aging_seconds, clock)
        self._ready = FairQueue(limits.aging_seconds, clock)
        self._preempted: OpenQueue[tuple[int, int], Request] = OpenQueue()
        self.aside = Aside(limits.aging_seconds, clock)
        self.trials = RequestTrials(clock)

    # ------------------------------------------------------------------ coming and going

    def add(self, request: Request) -> None:
        """A new request, in WAITING."""
        if request.trial:
            self.trials.add(request.id, request)
        else:
            self._begin(request)

    def _begin(self, request: Request) -> None:
        if request.inputs:
            self._waiting.push(request)
        else:
            self._enqueue(request, RequestState.READY)

    def put_back(self, request: Request) -> None:
        """A running request was preempted. Of inputs that stand in its prompt it needs
        the hidden states again: it waits for those that are still here."""
        for media in request.inputs:
            if media.position is not None and media.key in self.encodes:
                self.encodes.join(request, media)
        request.move(RequestState.READY)
        self._preempted.push(request.sort_key, request)

    def candidates(self) -> Iterator[Request]:
        """Ready requests in the order in which they may run. Each but the last that is asked for
        must be taken, or be `aside`. Those whose cross KV, or beginning with hidden states in it,
        was evicted go back to WAITING."""
        while (request := self._preempted.first()) is not None:
            if self._may_run(request):
                yield request
        for search in self.aside.requests:
            if self._may_run(search):
                yield search
        while (request := self._ready.first()) is not None:
            if self._may_run(request):
                yield request

    def _may_run(self, request: Request) -> bool:
        """False if `request`, which is ready, went back to WAITING."""
        if self._has_inputs(request):
            return True
        self._leave_line(request)
        self._wait_again(request)
        return False

    def take(self, request: Request) -> None:
        """`request`, one of the `candidates`, gets a slot. Hidden states that stand where its
        self KV is cached by now it needs no longer."""
        if request in self._ready:
            self._ready.take(request)
        else:
            self._preempted.discard(request.sort_key)
        self.aside.pass_by(request)
        self._run(request)
        uncached = self._uncached(request)
        if len(uncached) < len(request.inputs):
            needed = {media.key for media in uncached}
            for key in {media.key for media in request.inputs} - needed:
                self.encodes.let_go(request, key)

    def step_aside(self, request: Request) -> bool:
        """`request`, a search among the `candidates`, lacks slots or may not pass others aside.
        False if no other may go before it."""
        if request in self.aside:
            return True
        if self.aside.is_full:
            return False
        if request in self._ready:
            since = self._ready.set_aside(request)
        else:
            self._preempted.discard(request.sort_key)
            since = -math.inf  # nobody is more urgent
        self.aside.put(request, since)
        return True

    def consume(self, request: Request, write: CrossWrite) -> None:
        """A step makes `write` of hidden states that `request` waited for."""
        if not write.sources:
            return self.encodes.consume(write.key)
        for key in dict.fromkeys(source.key for source in write.sources):
            self.encodes.release(request, key)

    def skip(self, request: Request) -> None:
        """`request`, which has not begun, runs at once: a fork of one that does."""
        if request.state is RequestState.WAITING:
            request.move(RequestState.READY)
        self.leave(request)
        self._run(request)

    def _run(self, request: Request) -> None:
        request.move(RequestState.RUNNING)
        if request.metrics.admitted_at is None:
            request.metrics.admitted_at = self._clock()

    def leave(self, request: Request, runs: bool = False) -> None:
        """`request` has ended, wherever it was. `runs`: it had a slot, and so was in no line."""
        if not runs:
            self._waiting.discard(request)
            self._leave_line(request)
        if self.trials:
            self.trials.leave(request.id)
        self.encodes.leave(request)

    @property
    def num_ready(self) -> int:
        return len(self._ready) + len(self._preempted) + len(self.aside)

    @property
    def idle(self) -> bool:
        """True if no request is ready, and no encoder work can be asked for now."""
        if self.num_ready:
            return False
        waiting = self._waiting.first()
        return waiting is None or not self.encodes.allows(self._uncached(waiting))

    def _leave_line(self, request: Request) -> None:
        """`request` is no longer ready, if it was."""
        self._preempted.discard(request.sort_key)
        self._ready.discard(request)
        self.aside.discard(request)

    def _wait_again(self, request: Request) -> None:
        """Hidden states of `request` must be asked for once more. It lets go of those that it has,
        which could leave no room for the others."""
        for key in {media.key for media in request.inputs}:
            if key in self.encodes:
                self.encodes.let_go(request, key)
        self._enqueue(request, RequestState.WAITING)

    def _enqueue(self, request: Request, state: RequestState) -> None:
        request.move(state)
        queue = self._ready if state is RequestState.READY else self._waiting
        queue.push(request)

    # ------------------------------------------------------------------ encoder work

    def next_encodes(self) -> list[EncodeCommand]:
        """Encoder work to ask for now, in the order of the waiting requests, within the budget.
        Of many, some: an encoder then begins while others are asked for, and so do steps."""
        if self.trials and (suspect := self.trials.due()) is not None:
            self._begin(suspect)
        commands: list[EncodeCommand] = []
        for _ in range(ASKED_AT_ONCE):
            request = self._waiting.first()
            if request is None or not self.encodes.allows(inputs := self._uncached(request)):
                break
            self._waiting.take(request)
            new = {media.key: media for media in inputs if media.key not in self.encodes}
            asked = [self.encodes.ask(media, request.encoder) for media in new.values()]
            commands += [command for command in asked if command is not None]
            self._counters["cross_cache_hits"] += len(request.inputs) - len(new)
            arrived = [self.encodes.join(request, media) for media in inputs]
            if all(arrived):
                self._enqueue(request, RequestState.READY)
            else:
                request.move(RequestState.ENCODING)
        return commands

    def _uncached(self, request: Request) -> Sequence[Media]:
        """The inputs of `request` whose hidden states it needs: all without cached KV."""
        cross = request.cross
        lacks_cross = cross is not None and cross.key not in self.cross_pages
        if not request.placed:
            return request.inputs if lacks_cross else ()
        placed = self.prefixes.needs(request)
        return [
            media
            for media in request.inputs
            if (lacks_cross if media.position is None else media in placed)
        ]

    def _has_inputs(self, request: Request) -> bool:
        for media in self._uncached(request):
            is_shared = media.position is None and media.token is None  # whoever waits for it
            is_waited_for = is_shared or self.encodes.is_waiting(request, media.key)
            if not (is_waited_for and self.encodes.has_arrived(media.key)):
                return False
        return True

    def encoded(self, key: str, is_written: bool) -> None:
        """The hidden states of `key` are in the arena. Requests that need no others are
        ready."""
        for request in self.encodes.arrive(key, is_written):
            if request.state is RequestState.ENCODING and self._has_inputs(request):
                request.metrics.encoded_at = self._clock()
                self._enqueue(request, RequestState.READY)

    def withdrawn(self, keys: Sequence[str], sender: Incarnation | None) -> None:
        """The encoder will not begin `keys`; requests that joined meanwhile ask for them again."""
        for key in keys:
            self.ask_again(self.encodes.confirm_withdrawal(key, sender))

    def set_encoders(self, epochs: Mapping[str, int]) -> list[Request]:
        """As `Scheduler.set_encoders`. Returns the requests that are to be given up."""
        waiting, given_up = self.encodes.set_encoders(epochs)
        self.ask_again(waiting)
        return given_up

    def ask_again(self, requests: Sequence[Request]) -> None:
        """Their encoder work was closed, and must be asked for anew."""
        for request in requests:
            if request.state is RequestState.ENCODING:  # of several inputs, this is the first
                self._wait_again(request)
