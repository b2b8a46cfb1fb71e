"""Around every endpoint: ids, keys, limits of size and time, clients that leave or stop reading."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Never

from starlette.formparsers import MultiPartException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from antiphon.serve.admission import Admission
from antiphon.serve.errors import CLIENT_LEFT, ApiError, as_api_error, stopping
from antiphon.serve.handshake import Handshake, run_session
from antiphon.serve.identity import HEADER, REQUEST_ID, request_id
from antiphon.serve.keys import ApiKeys, no_valid_key
from antiphon.serve.metrics import Metrics
from antiphon.serve.settings import MEBIBYTE, Limits
from antiphon.serve.traces import Traces

logger = logging.getLogger(__name__)

OPEN_PATHS = {"/", "/health", "/ready"}  # without a key: for a page that asks for one, and probes
LINGER_SECONDS = 5.0  # for a client to finish a body that was refused: then it reads the answer


class ConnectionMiddleware:
    """Handles each request in a task of its own, which is cancelled when nobody waits for it."""

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        limits: Limits,
        admission: Admission,
        metrics: Metrics,
        adds_id: bool = True,
        traces: Traces | None = None,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        """`adds_id`: to answers; else a proxy does so, which also sends the id. `routes`: of the
        application, for what is refused before it looks them up."""
        self.app, self.keys, self.limits, self.admission = app, keys, limits, admission
        self.metrics, self.adds_id, self.traces = metrics, adds_id, traces
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange = Exchange(self, scope, receive, send)
            with self._traced(scope, lambda: exchange.final_status):
                await exchange.run()
        elif scope["type"] == "websocket":
            handshake = Handshake(send)
            try:
                with self._traced(scope, lambda: handshake.status):
                    await run_session(self.app, self.keys, scope, receive, handshake)
            finally:
                self.metrics.note_session(self.endpoint(scope), handshake.status)
        else:
            await self.app(scope, receive, send)

    def _traced(self, scope: Scope, status: Callable[[], int]) -> AbstractContextManager[None]:
        return nullcontext() if self.traces is None else self.traces.answering(scope, status)

    def endpoint(self, scope: Scope) -> str | None:
        """The path of the endpoint that a request is for, whatever became of it."""
        route: Any = scope.get("route")
        if route is None:
            matches = (one for one in self._routes if one.matches(scope)[0] != Match.NONE)
            route = next(matches, None)
        path: str | None = getattr(route, "path", None)
        return path


class Exchange:
    """One request and its answer."""

    def __init__(
        self, server: ConnectionMiddleware, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.server, self.scope = server, scope
        self._receive_raw, self._send_raw = receive, send
        self.id = request_id(scope["headers"])
        self.status, self.key = 0, "-"
        self._began, self._is_noted = time.monotonic(), False
        self._num_bytes, self._body_ended = 0, False
        self._discards = True  # what the client still sends, before it is refused
        self._refusal: ApiError | None = None  # what is wrong with the body
        self._left: str | None = None  # why nobody reads the answer
        self._gone = asyncio.Event()
        self._place = ExitStack()  # among the open requests
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def run(self) -> None:
        token = REQUEST_ID.set(self.id)
        try:
            self._check_key()
            self._check_length()
            with self._place:
                if self.scope["method"] == "POST":
                    self._place.enter_context(self.server.admission.admitted())
                await self._serve()
        except ApiError as error:
            await self._refuse(error)
        finally:
            self._stop_watching()
            self._note_end()
            REQUEST_ID.reset(token)

    def _note_end(self) -> None:
        """Once, as soon as the answer is sent: who has it finds it counted."""
        if self._is_noted:
            return
        self._is_noted, seconds = True, time.monotonic() - self._began
        path = self.server.endpoint(self.scope)
        self.server.metrics.note_answer(path, self.final_status, seconds)
        logger.info(
            "%s %s %d %.1f ms %s%s", self.scope["method"], self.scope["path"],
            self.final_status, 1000 * seconds, self.key,
            f" ({self._left})" if self._left else "",
        )  # fmt: skip

    @property
    def final_status(self) -> int:
        return CLIENT_LEFT if self._left else self.status

    # ------------------------------------------------------------------ before the endpoint

    def _header(self, name: bytes) -> bytes:
        return next((value for key, value in self.scope["headers"] if key == name), b"")

    def _check_key(self) -> None:
        if not self.server.keys:
            return
        key = self.server.keys.name(self._header(b"authorization"))
        if key is not None:
            self.key = key
        elif self.scope["path"] not in OPEN_PATHS:
            raise no_valid_key()

    def _check_length(self) -> None:
        length = self._header(b"content-length")
        if length.isdigit() and int(length) > self.server.limits.upload_bytes:
            raise self._too_large(f"{int(length) / MEBIBYTE:.1f} MiB are")

    def _too_large(self, what: str) -> ApiError:
        limit = self.server.limits.upload_mib
        return ApiError(413, f"{what} over this server's {limit:g} MiB", code="body_too_large")

    # ------------------------------------------------------------------ the endpoint

    async def _serve(self) -> None:
        self._task = asyncio.create_task(
            self.server.app(self.scope, self._receive, self._send)  # type: ignore[arg-type]
        )
        try:
            await self._task
        except asyncio.CancelledError:
            if self._left is None:
                if self.server.admission.draining and not self.status:
                    self._discards = False  # there is no time left
                    raise stopping() from None
                raise
        except Exception as error:
            answer = self._refusal or as_api_error(error)
            if not self.status:
                raise answer from error
            self._left = "the answer broke off"

    async def _stop(self) -> Never:
        """Ends the endpoint's task at this place, whatever errors it catches."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.sleep(0)
        raise AssertionError("unreachable")

    async def _receive(self) -> Message:
        if self._body_ended:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(self.server.limits.idle_seconds):
                message = await self._receive_raw()
        except TimeoutError:
            self._discards = False  # it has stopped sending, so it reads
            self._refuse_body(ApiError(408, "the rest of the body did not come", code="timeout"))
        if message["type"] == "http.disconnect":
            self._body_ended, self._left = True, "the client left"
            self._refuse_body(ApiError(CLIENT_LEFT, "the body broke off"))
        self._num_bytes += len(message.get("body", b""))
        self._body_ended = not message.get("more_body", False)
        if self._num_bytes > self.server.limits.upload_bytes:
            self._refuse_body(self._too_large("the body is"))
        if self._body_ended:
            self._watcher = asyncio.create_task(self._watch())
        return message

    def _refuse_body(self, error: ApiError) -> Never:
        """Whatever the endpoint answers to this, `error` is sent. The parser of forms closes its
        files for this kind of exception alone."""
        self._refusal = error
        raise MultiPartException(error.message)

    async def _watch(self) -> None:
        """Stops the endpoint when its client leaves."""
        while (await self._receive_raw())["type"] != "http.disconnect":
            pass
        self._left = "the client left"
        self._gone.set()
        if self._task is not None:
            self._task.cancel()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _send(self, message: Message) -> None:
        if self._refusal is not None:
            raise self._refusal
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.server.adds_id:
                message["headers"] = [*message.get("headers", ()), (HEADER, self.id.encode())]
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        if ends:
            self._stop_watching()  # what `receive` reports from here on is the end of the answer
        try:
            async with asyncio.timeout(self.server.limits.idle_seconds):
                await self._send_raw(message)
        except TimeoutError:
            self._left = "the client stopped reading"
            await self._stop()
        if ends:
            self._place.close()  # a client that sends its next request at once finds this one ended
            self._note_end()

    # ------------------------------------------------------------------ refusals

    async def _refuse(self, error: ApiError) -> None:
        self._stop_watching()
        await self._discard_body()
        if self._left is None:
            self._refusal = None
            await error.response()(self.scope, self._receive, self._send)

    async def _discard_body(self) -> None:
        """Reads what the client is still sending, within limits: it would not read the answer
        before, but see a broken connection."""
        if not self._discards:
            return
        most = self._num_bytes + 4 * self.server.limits.upload_bytes
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._body_ended and self._num_bytes < most:
                    message = await self._receive_raw()
                    self._num_bytes += len(message.get("body", b""))
                    self._body_ended = not message.get("more_body", False)
                    if message["type"] == "http.disconnect":
                        self._left = "the client left"
        except TimeoutError:
            pass
