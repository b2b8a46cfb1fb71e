"""The open requests of one engine: each is sent to its worker, and meets its one end here."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Iterable
from functools import partial
from typing import assert_never

import numpy as np

from antiphon.actors.channel import PeerGone
from antiphon.actors.messages import (
    EncodeFailed,
    FrontendMessage,
    Member,
    Members,
    NeedInput,
    NotOpen,
    Output,
    Withdrawn,
)
from antiphon.actors.workers import Workers
from antiphon.config.decoding_rules import RuleChanges
from antiphon.config.errors import (
    EngineDeadError,
    RequestCancelled,
    RequestError,
    RequestExpired,
    RequestFailed,
    describe,
)
from antiphon.engine.callers import caller_number
from antiphon.engine.deadline import GRACE_SECONDS
from antiphon.engine.dispatch import Dispatcher
from antiphon.engine.encodes import Encodes
from antiphon.engine.ends import ERRORS
from antiphon.engine.flights import Flights
from antiphon.engine.open_request import OnEnd, OpenRequest, without_payload
from antiphon.inputs.prepared import Prepared, text_of
from antiphon.inputs.processor import InputProcessor
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.alignment import Alignment
from antiphon.scheduler.generated import Readout
from antiphon.scheduler.outputs import StepOutput
from antiphon.scheduler.request import Finished, Request, RequestState
from antiphon.scheduler.router import Router
from antiphon.scheduler.worker_load import UNKNOWN_EPOCH, WorkerState
from antiphon.scheduler.worker_names import worker_name

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5  # after a worker could not be reached; if it is dead, its death comes first


class OpenRequests:
    """The table of open requests. For one event loop."""

    def __init__(
        self, inputs: InputProcessor, num_encoders: int, num_decoders: int, looks_up: bool = False
    ) -> None:
        """`looks_up`: decoders look drafts up in the texts that encoders read."""
        self.inputs, self._looks_up = inputs, looks_up
        self.frontend = f"frontend-{secrets.token_hex(4)}"  # no other engine has this name
        self.router = Router(
            WorkerState(worker_name(role, i), role, UNKNOWN_EPOCH)  # type: ignore[arg-type]
            for role, count in (("encoder", num_encoders), ("decoder", num_decoders))
            for i in range(count)
        )
        self.dispatcher = Dispatcher(self.frontend, self._not_sent)
        self.flights = Flights(self.frontend, self.router, self.dispatcher, self._give_up)
        self.encodes = Encodes(self.dispatcher, self.router)
        self._seeds = random.Random()  # not the system's: each of those lets other threads go first
        self.on_end: OnEnd | None = None  # for metrics: is told of each request, once
        self._open: dict[OpenRequest, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def connect(self, workers: Workers) -> None:
        """Requests go to these workers from now on."""
        self.dispatcher.workers = workers
        self.router.paired = workers.colocated
        if workers.members:
            self.set_members(workers.members)

    def set_members(self, members: Iterable[Member]) -> None:
        """All workers of the engine, as its supervisor says."""
        self.flights.set_workers(member.worker for member in members)
        self.encodes.note_deaths()

    # ------------------------------------------------------------------ to a worker

    def submit(
        self,
        prepared: Prepared,
        prompt_token_ids: list[int],
        *,
        timestamps: bool | None = None,
        sample: int = 0,
        stream: bool = False,
        priority: int = 0,
        timeout: float | None = None,
        readouts: tuple[Readout, ...] = (),
        alignment: Alignment | None = None,
        rule_changes: RuleChanges | None = None,
        begun: int = 0,
    ) -> OpenRequest:
        """Makes one `Request` and sends it to the decoder on its route, or as soon as there is one.

        `timestamps`: whether the rules of Whisper's timestamps apply; None: as the prompt says.
        `sample`: number of this sample among those of its prompt. `timeout`: in seconds.
        `readouts`: what to read of the prompt's logits. `rule_changes`: of the checkpoint's rules.
        `alignment`: whether to tell when its tokens were said. `begun`: last tokens of the prompt
        that begin its text.
        """
        params = self.inputs.complete(prepared.params)
        inputs, prompt_len = prepared.inputs, len(prompt_token_ids)
        if timestamps is None:
            timestamps = self.inputs.wants_timestamps(prompt_token_ids)
        seed = self._seeds.getrandbits(63) if params.seed is None else params.seed + sample
        request = Request(
            id=self.flights.new_id(),
            prompt_token_ids=np.array(prompt_token_ids, np.int64),
            inputs=tuple(without_payload(media) for media in inputs),
            params=params,
            rules=self.inputs.rules(prompt_len, params, timestamps, rule_changes),
            max_tokens=self.inputs.max_tokens(prompt_len, params),
            seed=seed % 2**63,
            streams=stream or bool(params.stop),
            readouts=readouts,
            alignment=alignment,
            priority=priority,
            timeout=timeout,
            caller=caller_number(),
            lookup_ids=text_of(inputs) if self._looks_up else None,
            begun=begun,
        )
        opened = OpenRequest(
            request,
            inputs,
            asyncio.get_running_loop().create_future(),
            is_stream=stream,
            new_text=(lambda: self.inputs.text_stream(params)) if request.streams else None,
            arrived_at=time.time(),
            timeout=timeout,
        )
        self._watch(opened)
        self.flights.send(opened)
        return opened

    def _watch(self, opened: OpenRequest) -> None:
        """It is open from now on; its deadline runs."""
        self._open[opened] = None
        if self.on_end is not None:  # in the context of this call, whichever task ends it
            opened.future.add_done_callback(partial(self.on_end, opened))
        if opened.timeout is not None:
            loop = asyncio.get_running_loop()
            opened.end_time = loop.time() + opened.timeout
            opened.timer = loop.call_later(opened.timeout + GRACE_SECONDS, self._expire, opened)

    def cancel(self, opened: OpenRequest) -> None:
        """Ends a request as RequestCancelled, unless it has ended. Its worker is told, and what
        still comes of it is ignored."""
        if opened.is_open:
            self._take_back(opened)
            opened.fail(RequestCancelled("cancelled by the caller"))

    def _expire(self, opened: OpenRequest) -> None:
        """Its worker did not end it in time: it is busy, or hangs."""
        self._take_back(opened)
        opened.fail(RequestExpired(f"its deadline passed after {opened.timeout:g} s"))

    def _take_back(self, opened: OpenRequest) -> None:
        if opened.route is not None:
            self.dispatcher.cancel(opened.route, opened.request)
        self._close(opened)

    def _not_sent(self, request: Request, error: Exception) -> None:
        opened = self.flights.of(request)
        if opened is None:
            return
        if isinstance(error, PeerGone):  # if it is dead, that will be known soon
            loop = asyncio.get_running_loop()
            loop.call_later(RETRY_SECONDS, self.flights.submit_again, request)
        else:
            self._fail(opened, error, "it could not be sent to its worker")

    # ------------------------------------------------------------------ from a worker

    def handle(self, message: FrontendMessage) -> None:
        """A message from a worker."""
        match message:
            case Output(output):
                self.receive(output)
            case NotOpen(numbers, sender):
                for number in numbers:
                    if (opened := self.flights.at(number, sender)) is not None:
                        self.flights.note_gap(opened)
            case NeedInput():
                self.dispatcher.answer(message)
            case Members(members):
                self.set_members(members)
            case HiddenStates():
                self.encodes.receive(message)
            case EncodeFailed():
                self.encodes.fail(message)
            case Withdrawn():
                pass  # nothing is withdrawn: what comes of an encode that nobody waits for goes
            case _:
                assert_never(message)

    def receive(self, output: StepOutput) -> None:
        """New tokens of requests that stream, and ends of requests. What comes twice changes
        nothing; where something is missing, the request is sent again."""
        deltas = zip(output.delta_numbers, output.delta_positions, output.delta_tokens, strict=True)
        for number, position, token in deltas:
            opened = self.flights.at(number, output.sender)
            if opened is None or position < len(opened.token_ids):
                continue
            if position > len(opened.token_ids):
                self.flights.note_gap(opened)
                continue
            self.flights.got_on(opened)
            self._receive_token(opened, token)
        for finished in output.finished:
            if (opened := self.flights.at(finished.number, output.sender)) is not None:
                self._finish(opened, finished)

    def _receive_token(self, opened: OpenRequest, token: int) -> None:
        opened.token_ids.append(token)
        text = opened.text
        if text is None or text.stopped or token in opened.request.rules.stop_ids:
            return
        try:
            text.add([token])
        except Exception as error:  # whatever a tokenizer raises
            self._take_back(opened)
            self._fail(opened, error, f"token {token} could not be decoded")
            return
        opened.updated.set()
        if text.stopped and opened.route is not None:
            self.dispatcher.stop(opened.route, opened.request)

    def _finish(self, opened: OpenRequest, finished: Finished) -> None:
        """The worker has ended it: with all its tokens, whatever came before."""
        if opened.text is not None:
            for token in finished.token_ids[len(opened.token_ids) :]:
                self._receive_token(opened, token)
        if opened.is_open:
            finished.metrics = opened.metrics(finished.metrics)
            self._close(opened)
            opened.finish(finished)

    async def wait(self, opened: OpenRequest) -> Finished:
        """Waits for the end of a request. Raises the RequestError that it ended with; cancels it
        when the caller is cancelled."""
        try:
            finished = await opened.end()
        except asyncio.CancelledError:
            self.cancel(opened)
            raise
        if finished.state is not RequestState.DONE:
            raise ERRORS[finished.state](finished.error)
        return finished

    # ------------------------------------------------------------------ ends

    def end_all(self, reason: str, loop_is_closed: bool) -> None:
        """Ends every open request with EngineDeadError. In a closed loop nobody waits for them."""
        if not loop_is_closed:
            self.encodes.end_all(reason)
        for opened in list(self._open):
            self._close(opened)
            if not loop_is_closed:  # one error each, as an exception keeps the frames it passed
                opened.fail(EngineDeadError(reason))

    def _give_up(self, opened: OpenRequest, error: RequestError) -> None:
        logger.error("request %s: %s", opened.request.id, error)
        self._close(opened)
        opened.fail(error)

    def _fail(self, opened: OpenRequest, error: Exception, problem: str) -> None:
        """Ends one request with an error that concerns no other."""
        logger.error("request %s: %s", opened.request.id, problem, exc_info=error)
        self._close(opened)
        failure = RequestFailed(f"{problem}: {describe(error)}")
        failure.__cause__ = error
        opened.fail(failure)

    def _close(self, opened: OpenRequest) -> None:
        if opened in self._open:
            del self._open[opened]
            self.flights.end(opened)
