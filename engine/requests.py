"""The requests of one engine that have not ended: each goes to its worker, and meets its one end here."""

import asyncio
import itertools
import logging
import secrets
from dataclasses import dataclass, field

import numpy as np

from antiphon.actors.workers import Workers
from antiphon.config.errors import (
    EngineDeadError,
    RequestCancelled,
    RequestError,
    RequestExpired,
    RequestFailed,
    RequestRefused,
)
from antiphon.engine.outputs import CompletionOutput, Logprob
from antiphon.inputs.detokenizer import TextStream
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Finished, Media, Request, RequestState, StepOutput
from antiphon.scheduler.router import Route, Router

logger = logging.getLogger(__name__)

ERRORS: dict[RequestState, type[RequestError]] = {
    RequestState.REFUSED: RequestRefused,
    RequestState.CANCELLED: RequestCancelled,
    RequestState.EXPIRED: RequestExpired,
    RequestState.FAILED: RequestFailed,
}


@dataclass
class OpenRequest:
    """What the engine knows of a request that has not ended."""

    request: Request
    route: Route
    end: asyncio.Future[Finished]
    text: TextStream | None = None  # of requests that stream or have stop strings
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def fail(self, error: RequestError) -> None:
        if not self.end.done():
            self.end.set_exception(error)
            self.end.exception()  # it may be that nobody waits for it any more
        self.news.set()


class OpenRequests:
    """For one event loop. `workers` are there while the engine runs."""

    def __init__(self, inputs: InputProcessor, router: Router, num_decoders: int) -> None:
        self.inputs, self.router = inputs, router
        self.workers: Workers | None = None
        self._open: dict[int, OpenRequest] = {}
        self._ids = itertools.count()
        self._outbox: list[list[OpenRequest]] = [[] for _ in range(num_decoders)]
        self._flush_due = False

    def __len__(self) -> int:
        return len(self._open)

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
        """Makes one `Request` and sends it on its way."""
        params = self.inputs.complete(prepared.params)
        media, prompt_len = prepared.media, len(prompt_token_ids)
        if timestamps is None:
            timestamps = self.inputs.wants_timestamps(prompt_token_ids)
        seed = secrets.randbits(63) if params.seed is None else params.seed + sample
        route = self.router.route(media.key, media.num_tokens)
        request = Request(
            id=next(self._ids),
            prompt_token_ids=np.array(prompt_token_ids, np.int64),
            media=Media(media.key, media.kind, media.num_tokens, media.payload),  # type: ignore[arg-type]
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
        self._open[request.id] = opened
        self._outbox[route.decoder].append(opened)
        self._flush_soon()
        return opened

    def _flush_soon(self) -> None:
        """All requests of one turn of the event loop go to a decoder in one message."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for decoder, opened in enumerate(self._outbox):
            self._outbox[decoder] = []  # first: what can't be sent must not be tried for ever
            if opened and self.workers is not None:
                self._send(decoder, opened)

    def _send(self, decoder: int, opened: list[OpenRequest]) -> None:
        """A request that can't be sent fails alone."""
        assert self.workers is not None
        try:
            self.workers.submit(decoder, [each.request for each in opened])
        except Exception as error:
            if len(opened) > 1:
                for each in opened:
                    self._send(decoder, [each])
            else:
                self._fail(opened[0], error, "it could not be sent to its worker")

    def _fail(self, opened: OpenRequest, error: Exception, what: str) -> None:
        """Ends one request for an error that is nobody else's."""
        logger.error("request %d: %s", opened.request.id, what, exc_info=error)
        self._close_request(opened)
        failure = RequestFailed(f"{what}: {type(error).__name__}: {error}")
        failure.__cause__ = error
        opened.fail(failure)

    def cancel(self, opened: OpenRequest) -> None:
        """Asks for the end of a request; its result is RequestCancelled unless it ended before."""
        if opened.request.id in self._open and self.workers is not None:
            self._flush()  # a request must be there before it can be cancelled
            self.workers.cancel(opened.route.decoder, opened.request)

    # ------------------------------------------------------------------ from a worker

    def take(self, output: StepOutput) -> None:
        """New tokens of requests that stream, and ends."""
        for request_id, token in zip(output.delta_ids, output.delta_tokens, strict=True):
            if (opened := self._open.get(request_id)) is not None:
                self._take_token(opened, token)
        for end in output.finished:
            if (opened := self._open.get(end.id)) is not None:
                self._close_request(opened)
                if not opened.end.done():
                    opened.end.set_result(end)
                opened.news.set()

    def _take_token(self, opened: OpenRequest, token: int) -> None:
        assert opened.text is not None
        if opened.text.stopped or token in opened.request.rules.stop_ids:
            return
        try:
            opened.text.add([token])
        except Exception as error:  # whatever a tokenizer raises
            self._fail(opened, error, f"token {token} could not be decoded")
            if self.workers is not None:
                self.workers.cancel(opened.route.decoder, opened.request)
            return
        opened.news.set()
        if opened.text.stopped and self.workers is not None:
            self.workers.stop(opened.route.decoder, opened.request)

    def _close_request(self, opened: OpenRequest) -> None:
        request = opened.request
        del self._open[request.id]
        self.router.release(opened.route, request.media.num_tokens)
        if self.workers is not None:
            self.workers.forget(request)

    def end_all(self, reason: str, loop_is_closed: bool) -> None:
        """Every open request ends with EngineDeadError; nobody waits for them in a loop that is closed."""
        for opened in list(self._open.values()):
            self._close_request(opened)
            if not loop_is_closed:
                opened.fail(
                    EngineDeadError(reason)
                )  # one each: an exception keeps the frames that it went through

    async def end(self, opened: OpenRequest) -> Finished:
        """Raises the RequestError that it ended with; cancels it when the caller is cancelled."""
        try:
            end = await asyncio.shield(opened.end)
        except asyncio.CancelledError:
            self.cancel(opened)
            raise
        if end.state is not RequestState.DONE:
            raise ERRORS[end.state](end.error)
        return end

    def completion(self, opened: OpenRequest, end: Finished, index: int) -> CompletionOutput:
        """What the caller gets of a request that is done."""
        params, rules = opened.request.params, opened.request.rules
        token_ids, reason = end.token_ids, end.reason
        if opened.text is not None and opened.text.stopped:
            token_ids, text, reason = list(opened.text.token_ids), opened.text.text, "stop"
        else:
            shown = (
                token_ids[:-1]
                if reason == "stop"
                and token_ids[-1] in rules.stop_ids
                and params.skip_special_tokens
                else token_ids
            )
            text = self.inputs.decode(shown, params.skip_special_tokens)
        logprobs = None
        if params.logprobs is not None:
            logprobs = [
                {
                    id_: Logprob(value, rank, self.inputs.decode([id_], skip_special_tokens=False))
                    for id_, value, rank in reversed(
                        list(zip(each.ids, each.logprobs, each.ranks, strict=True))
                    )
                }
                for each in end.logprobs[: len(token_ids)]
            ]
        return CompletionOutput(index, text, token_ids, reason, logprobs)
