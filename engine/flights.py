"""Sends open requests to workers, and again where a worker died or messages were lost.

A request is in flight at one decoder at a time. Each attempt has a number of its own, so that
messages that come late, of an attempt that was given up, concern nobody. Every few seconds decoders
are asked for those requests of which nothing came meanwhile: one that a decoder does not have was
lost on its way there, or its end on the way back, and is sent again. What dies with an encoder is
asked for anew by the decoders; here it only counts as a death of which no request is the cause.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable

from antiphon.config.errors import RequestError, RequestFailed
from antiphon.engine.dispatch import Dispatcher
from antiphon.engine.open_request import OpenRequest
from antiphon.scheduler.request import Incarnation, Request, RequestId, Trial
from antiphon.scheduler.router import Router
from antiphon.scheduler.suspects import Suspects
from antiphon.scheduler.trials import trial_mark
from antiphon.scheduler.worker_load import UNKNOWN_EPOCH, WorkerState

logger = logging.getLogger(__name__)

MAX_GAPS = 5  # of one request
CHECK_SECONDS = 3.0  # a request that was lost is sent again after one or two times this

GiveUp = Callable[[OpenRequest, RequestError], None]


class Flights:
    """Which open request is in flight at which decoder, and which ones wait to be sent.

    `give_up` ends a request for its caller. For one event loop.
    """

    def __init__(
        self, frontend: str, router: Router, dispatcher: Dispatcher, give_up: GiveUp
    ) -> None:
        self.frontend, self.router, self.dispatcher = frontend, router, dispatcher
        self._give_up = give_up
        self._in_flight: dict[int, OpenRequest] = {}  # by number
        self._waiting: dict[OpenRequest, None] = {}  # for a worker
        self._on_trial: dict[OpenRequest, None] = {}  # suspects that wait for their trial
        self._suspects: Suspects[OpenRequest] = Suspects(lambda o: trial_mark(o.request.id))
        self._numbers = itertools.count()

    def new_id(self) -> RequestId:
        """For an attempt."""
        return RequestId(self.frontend, next(self._numbers))

    def at(self, number: int, sender: Incarnation) -> OpenRequest | None:
        """The request whose present attempt has this number and is in flight at `sender`."""
        opened = self._in_flight.get(number)
        if opened is None or opened.worker is None:
            return None
        is_known = opened.worker.epoch != UNKNOWN_EPOCH
        return None if is_known and opened.worker != sender else opened

    def of(self, request: Request) -> OpenRequest | None:
        """The open request whose present attempt this is, if it is in flight."""
        opened = self._in_flight.get(request.id.number)
        return None if opened is None or opened.request is not request else opened

    # ------------------------------------------------------------------ sending

    def send(self, opened: OpenRequest) -> None:
        """Sends the present attempt, now or as soon as a worker can take it."""
        if not self._suspects.may_start(opened):
            self._on_trial[opened] = None
            return
        request = opened.request
        key = request.inputs[0].key if request.inputs else None
        route = self.router.route(key, request.load)
        if route is None:
            return self._wait(opened)
        opened.route, opened.worker = route, self.router.incarnation(route.decoder)
        opened.sent_at = time.time()
        if self._suspects.is_suspect(opened):
            request.streams = True  # its first token ends its trial
            is_strict = self._suspects.is_strict(opened)
            request.trial = Trial.END if is_strict else Trial.FIRST_TOKEN
        self._suspects.start(opened)
        self._in_flight[request.id.number] = opened
        self.dispatcher.submit(route, request, opened.inputs)

    def submit_again(self, request: Request) -> None:
        """Its worker could not be reached. If it is still the same one, it may be now."""
        if (opened := self.of(request)) is not None and opened.route is not None:
            self.dispatcher.submit(opened.route, request, opened.inputs)

    def _wait(self, opened: OpenRequest) -> None:
        if self.router.may_come(bool(opened.request.inputs)):
            self._waiting[opened] = None
        else:
            workers = ", ".join(state.name for state in self.router.states) or "none is left"
            error = f"no worker takes new requests, and none is about to start ({workers})"
            self._give_up(opened, RequestFailed(error))

    def send_again(self, opened: OpenRequest) -> None:
        """Gives the present attempt up, which was in flight, and sends another one."""
        previous = opened.request
        self._land(opened)
        opened.begin_again(self.new_id(), asyncio.get_running_loop().time())
        self.send(opened)
        self.dispatcher.release(previous)  # now that the new attempt uses its inputs

    def note_gap(self, opened: OpenRequest) -> None:
        """A message about it was lost."""
        opened.gaps += 1
        if opened.route is not None:
            self.dispatcher.cancel(opened.route, opened.request)
        if opened.gaps > MAX_GAPS:
            error = f"messages about it were lost {opened.gaps} times"
            return self._give_up(opened, RequestFailed(error))
        logger.warning("request %s: a message was lost; it is sent again", opened.request.id)
        self.send_again(opened)

    async def watch(self) -> None:
        """Checks for ever what is in flight."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.check()

    def check(self) -> None:
        """Asks decoders for the requests of which no token has come since the last check."""
        silent: dict[str, list[int]] = {}
        for number, opened in self._in_flight.items():
            assert opened.route is not None
            progress = (number, len(opened.token_ids))
            if opened.progress == progress:
                silent.setdefault(opened.route.decoder, []).append(number)
            elif opened.text is not None and opened.text.stopped:  # its `Stop` was lost, or is late
                self.dispatcher.stop(opened.route, opened.request)
            opened.progress = progress
        self.dispatcher.ask(silent)

    # ------------------------------------------------------------------ ends

    def got_on(self, opened: OpenRequest) -> None:
        """A token of it has come."""
        if self._suspects.got_on(opened):
            self._next_trial()

    def end(self, opened: OpenRequest) -> None:
        """The request has ended."""
        self._waiting.pop(opened, None)
        self._on_trial.pop(opened, None)
        self._land(opened)
        self.dispatcher.release(opened.request)
        if self._suspects.end(opened):
            self._next_trial()

    def _land(self, opened: OpenRequest) -> None:
        if self._in_flight.pop(opened.request.id.number, None) is not None:
            assert opened.route is not None
            self.router.release(opened.route, opened.request.load)

    def _next_trial(self) -> None:
        while self._on_trial:
            opened = next(iter(self._on_trial))
            if not self._suspects.may_start(opened):
                return
            del self._on_trial[opened]
            self.send(opened)

    # ------------------------------------------------------------------ workers

    def set_workers(self, states: Iterable[WorkerState]) -> None:
        """All workers as they are now. What was in flight at lives that are over is sent again."""
        before = [state for state in self.router.states if state.alive]
        self.router.update(states)
        for state in before:
            now = self.router.incarnation(state.name)
            if now == state.incarnation:
                continue
            if state.epoch == UNKNOWN_EPOCH and now is not None:
                self._recognize(state.incarnation, now)
            elif state.role == "decoder":
                self._lost(state)
            elif not self.router.paired:  # else it is the death of its decoder, which counts
                self._suspects.died(())
        waiting, self._waiting = self._waiting, {}
        for opened in waiting:
            self.send(opened)

    def _recognize(self, unknown: Incarnation, known: Incarnation) -> None:
        for opened in self._in_flight.values():
            if opened.worker == unknown:
                opened.worker = known

    def _lost(self, state: WorkerState) -> None:
        """A decoder has died, or was ended after it was drained, for which nobody is to blame."""
        lost = [opened for opened in self._in_flight.values() if opened.worker == state.incarnation]
        culprit: OpenRequest | None = None
        if not state.draining:
            culprit = self._suspects.died(lost, self.router.last_load(state))
        if lost:
            logger.warning("%s is gone: %d requests go on", state.incarnation, len(lost))
        if culprit is not None:
            deaths = self._suspects.deaths(culprit)
            error = (
                f"given up: {deaths} workers died while they had it, "
                "and two of them while no other request was suspect"
            )
            self._give_up(culprit, RequestFailed(error))
        for opened in lost:
            if opened is not culprit:
                self.send_again(opened)
        self._next_trial()
