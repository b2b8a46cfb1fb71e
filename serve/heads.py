"""Heads of HTTP requests that are too long, or that never end."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from antiphon.serve.errors import ApiError

MOST_BYTES = 64 << 10  # of a request's line and headers, as h11 has it; a trailer's, too


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
        body = ApiError(431, message, code="headers_too_large").response().body
        head = (
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(head.encode() + bytes(body))
        self.transport.close()
