"""Heads of HTTP requests that are too long, that never end, or that are none."""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from antiphon.serve.errors import ApiError
from antiphon.serve.identity import HEADER, request_id

MOST_BYTES = 64 << 10  # of a request's line and headers, as h11 has it; a trailer's, too


class OnePacket:
    """The connection, for one answer: the head goes with the beginning of the body, which uvicorn
    writes right behind it. Each call of the system may hand Python's lock to a busy thread."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.is_closing = transport.is_closing
        self._transport, self._is_first, self._held = transport, True, b""

    def write(self, content: bytes) -> None:
        if self._is_first:
            self._is_first, self._held = False, content
            asyncio.get_running_loop().call_soon(self._flush)  # an answer may have no body
        else:
            self._flush(content)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self, more: bytes = b"") -> None:
        held, self._held = self._held, b""
        if (content := held + more) and not self.is_closing():
            self._transport.write(content)


class BoundedHead(HttpToolsProtocol):
    """Refuses heads that do not end within `MOST_BYTES` and one read, which bounds what they take,
    and leaves clients whose head is not whole after `idle_seconds`."""

    def __init__(self, idle_seconds: float, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle_seconds = idle_seconds
        self._unread = 0  # bytes since the beginning of a head, or the last ones of a body
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin_to_wait()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._timer is None:
            self._begin_to_wait()
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MOST_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._unread, self._in_head = 0, False
        super().on_headers_complete()
        if self.cycle is not None:  # no WebSocket, which has none
            self.cycle.transport = cast("asyncio.Transport", OnePacket(self.transport))

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread, self._in_head = 0, True
        super().on_message_complete()

    def _begin_to_wait(self) -> None:
        self._timer = self.loop.call_later(self._idle_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        # What came behind a request at work may be no head, but a stray end of a line.
        at_work = self.cycle is not None and not self.cycle.response_complete
        if not at_work and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self) -> None:
        message = f"the headers are over {MOST_BYTES} bytes"
        self._answer(ApiError(431, message, code="headers_too_large"))

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        self._answer(ApiError(400, msg, code="invalid_http"))

    def _answer(self, error: ApiError) -> None:
        """Unless another answer has begun, and ends the connection."""
        response, status = error.response(), HTTPStatus(error.status)
        fields = [
            (b"connection", b"close"), (HEADER, request_id([]).encode()), *response.raw_headers,
        ]  # fmt: skip
        head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        first = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(first + head + b"\r\n" + bytes(response.body))
        self.transport.close()
