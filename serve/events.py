"""Server-sent events."""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from antiphon.serve.errors import as_api_error

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends objects as they come. What fails on the way is the last event: the status is sent
    already. However it ends, `events` is closed at once, which frees what its request holds."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Any, None], first: Any, *, done: bool) -> None:
        """`first`: the first event, taken already. `done`: whether the stream ends with [DONE]."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._first, self._ends = events, first, done

    @classmethod
    async def begun(cls, events: AsyncGenerator[Any, None], *, done: bool) -> "EventStream":
        """Waits for the first event, so that an error before it is an answer of its own."""
        try:
            return cls(events, await anext(events), done=done)
        except BaseException:
            await events.aclose()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({
            "type": "http.response.start", "status": self.status_code, "headers": self.raw_headers,
        })  # fmt: skip
        async with aclosing(self._encoded()) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _encoded(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._events) as events:
            yield event(self._first)
            try:
                async for item in events:
                    yield event(item)
            except Exception as error:
                yield event(as_api_error(error).body())
                return
            if self._ends:
                yield DONE


def event(item: Any) -> bytes:
    # Half of a surrogate pair, which an error may quote, becomes JSON's own escape.
    content = json.dumps(item, ensure_ascii=False)
    return f"data: {content}\n\n".encode(errors="backslashreplace")
