"""The open requests of one engine: each is sent to its worker, and meets its one end here."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from antiphon.actors.messages import FrontendMessage, Members, NeedInput, Output
from antiphon.actors.workers import Workers
from antiphon.config.errors import (
    EngineDeadError,
    RequestCancelled,
    RequestError,
    RequestExpired,
    RequestFailed,
    RequestRefused,
)
from antiphon.engine.dispatch import Dispatcher
from antiphon.inputs.detokenizer import TextStream
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Finished, Media, Request, RequestId, RequestState, StepOutput
from antiphon.scheduler.router import Route, Router, WorkerState

logger = logging.getLogger(__name__)

ERRORS: dict[RequestState, type[RequestError]] = {
    RequestState.REFUSED: RequestRefused,
    RequestState.CANCELLED: RequestCancelled,
    RequestState.EXPIRED: RequestExpired,
    RequestState.FAILED: RequestFailed,
}


@dataclass
class OpenRequest:
    """What the engine knows of a request that has not ended.

    `text`: of requests that stream or have stop strings. `updated`: set when there is new text, and
    at the end.
    """

    request: Request
    route: Route
    future: asyncio.Future[Finished]
    text: TextStream | None = None
    updated: asyncio.Event = field(default_factory=asyncio.Event)

    def finish(self, finished: Finished) -> None:
        if not self.future.done():
            self.future.set_result(finished)
        self.updated.set()

    def fail(self, error: RequestError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as retrieved: its caller may have left
        self.updated.set()


class OpenRequests:
    """The table of open requests, by id. For one event loop."""

    def __init__(self, inputs: InputProcessor, num_encoders: int, num_decoders: int) -> None:
        self.inputs = inputs
        self.frontend = f"frontend-{secrets.token_hex(4)}"  # no other engine has this name
        encoders = [WorkerState(f"encoder-{i}", "encoder") for i in range(num_encoders)]
        decoders = [WorkerState(f"decoder-{i}", "decoder") for i in range(num_decoders)]
        self.router = Router([*encoders, *decoders])
        self.dispatcher = Dispatcher(self.frontend, self._not_sent)
        self._open: dict[int, OpenRequest] = {}  # by number
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._open)

    def connect(self, workers: Workers) -> None:
        """Requests go to these workers from now on."""
        self.dispatcher.workers = workers
        self.router.paired = workers.colocated

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
    ) -> OpenRequest:
        """Makes one `Request` and sends it to the decoder on its route.

        `timestamps`: whether the rules of Whisper's timestamps apply; None: as the prompt says.
        `sample`: number of this sample among those of its prompt. `timeout`: in seconds.
        """
        params = self.inputs.complete(prepared.params)
        inputs, prompt_len = prepared.inputs, len(prompt_token_ids)
        if timestamps is None:
            timestamps = self.inputs.wants_timestamps(prompt_token_ids)
        seed = secrets.randbits(63) if params.seed is None else params.seed + sample
        key = inputs[0].key if inputs else None
        route = self.router.route(key, _load_of(inputs, prompt_len))
        assert route is not None  # no worker drains or dies yet
        request = Request(
            id=RequestId(self.frontend, next(self._numbers)),
            prompt_token_ids=np.array(prompt_token_ids, np.int64),
            inputs=tuple(_without_payload(media) for media in inputs),
            params=params,
            rules=self.inputs.rules(prompt_len, params, timestamps),
            max_tokens=self.inputs.max_tokens(prompt_len, params),
            seed=seed % 2**63,
            streams=stream or bool(params.stop),
            priority=priority,
            encoder=route.encoder,
            timeout=timeout,
        )
        opened = OpenRequest(request, route, asyncio.get_running_loop().create_future())
        if request.streams:
            opened.text = self.inputs.text_stream(params)
        self._open[request.id.number] = opened
        self.dispatcher.submit(route, request, inputs)
        return opened

    def cancel(self, opened: OpenRequest) -> None:
        """Asks for the end of a request: it ends as RequestCancelled unless it has ended before."""
        if opened.request.id.number in self._open:
            self.dispatcher.cancel(opened.route, opened.request)

    def _not_sent(self, request: Request, error: Exception) -> None:
        if (opened := self._open.get(request.id.number)) is not None:
            self._fail(opened, error, "it could not be sent to its worker")

    # ------------------------------------------------------------------ from a worker

    def handle(self, message: FrontendMessage) -> None:
        """A message from a worker."""
        match message:
            case Output(output):
                self.receive(output)
            case NeedInput():
                self.dispatcher.answer(message)
            case Members():
                pass
            case _:
                assert_never(message)

    def receive(self, output: StepOutput) -> None:
        """New tokens of requests that stream, and ends of requests."""
        for number, token in zip(output.delta_numbers, output.delta_tokens, strict=True):
            if (opened := self._open.get(number)) is not None:
                self._receive_token(opened, token)
        for finished in output.finished:
            if (opened := self._open.get(finished.number)) is not None:
                self._close(opened, encoded=finished.metrics.encoded_at is not None)
                opened.finish(finished)

    def _receive_token(self, opened: OpenRequest, token: int) -> None:
        assert opened.text is not None
        if opened.text.stopped or token in opened.request.rules.stop_ids:
            return
        try:
            opened.text.add([token])
        except Exception as error:  # whatever a tokenizer raises
            self._fail(opened, error, f"token {token} could not be decoded")
            self.dispatcher.cancel(opened.route, opened.request)
            return
        opened.updated.set()
        if opened.text.stopped:
            self.dispatcher.stop(opened.route, opened.request)

    async def wait(self, opened: OpenRequest) -> Finished:
        """Waits for the end of a request. Raises the RequestError that it ended with; cancels it
        when the caller is cancelled."""
        try:
            finished = await asyncio.shield(opened.future)
        except asyncio.CancelledError:
            self.cancel(opened)
            raise
        if finished.state is not RequestState.DONE:
            raise ERRORS[finished.state](finished.error)
        return finished

    # ------------------------------------------------------------------ ends

    def end_all(self, reason: str, loop_is_closed: bool) -> None:
        """Ends every open request with EngineDeadError. In a closed loop nobody waits for them."""
        for opened in list(self._open.values()):
            self._close(opened)
            if not loop_is_closed:  # one error each, as an exception keeps the frames it passed
                opened.fail(EngineDeadError(reason))

    def _fail(self, opened: OpenRequest, error: Exception, problem: str) -> None:
        """Ends one request with an error that concerns no other."""
        logger.error("request %s: %s", opened.request.id, problem, exc_info=error)
        self._close(opened)
        failure = RequestFailed(f"{problem}: {type(error).__name__}: {error}")
        failure.__cause__ = error
        opened.fail(failure)

    def _close(self, opened: OpenRequest, encoded: bool = False) -> None:
        request = opened.request
        del self._open[request.id.number]
        load = _load_of(request.inputs, len(request.prompt_token_ids))
        self.router.release(opened.route, load)
        self.dispatcher.release(request, encoded)


def _without_payload(media: EncoderInput) -> Media:
    """As a request carries it: payloads go to encoders alone."""
    return Media(media.key, media.kind, media.num_tokens, position=media.position)


def _load_of(inputs: Sequence[EncoderInput | Media], prompt_len: int) -> int:
    """Of a request on its workers: encoder tokens, or those of the prompt if there are none."""
    return sum(media.num_tokens for media in inputs) or prompt_len
