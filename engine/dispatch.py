"""Sends requests to their decoder workers: those of one turn of the event loop in one message."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from antiphon.actors.workers import Workers
from antiphon.inputs.prepared import EncoderInput
from antiphon.scheduler.request import Request

NotSent = Callable[[Request, Exception], None]


class Dispatcher:
    """The requests that are not sent yet, by decoder. For one event loop.

    How a request travels (inside a message, or with its input in Ray's object store) is chosen by
    `Workers`. `workers` is None while the engine does not run; nothing is sent then.
    """

    def __init__(self, not_sent: NotSent) -> None:
        """`not_sent` is told of each request that could not be sent, and why."""
        self.workers: Workers | None = None
        self._not_sent = not_sent
        self._outbox: dict[str, list[Request]] = {}
        self._flush_scheduled = False

    def stored(self, media: EncoderInput) -> EncoderInput:
        """`media` in the form in which it travels: a large input as a reference into Ray's store.

        Call it in a thread: it may take milliseconds, and the event loop could receive a thousand
        tokens in that time.
        """
        if self.workers is None:
            return media
        payload = self.workers.keep(media.key, media.payload)
        return media if payload is media.payload else replace(media, payload=payload)

    def submit(self, decoder: str, request: Request) -> None:
        self._outbox.setdefault(decoder, []).append(request)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def cancel(self, decoder: str, request: Request) -> None:
        """Asks a decoder to end a request that was submitted."""
        if self.workers is not None:
            self._flush()  # the request must arrive before the message that cancels it
            self.workers.cancel(decoder, request)

    def stop(self, decoder: str, request: Request) -> None:
        """As `cancel`, for a request whose text met a stop string."""
        if self.workers is not None:
            self.workers.stop(decoder, request)

    def release(self, request: Request) -> None:
        """The request has ended: its stored input may go."""
        if self.workers is not None:
            self.workers.release(request)

    def _flush(self) -> None:
        self._flush_scheduled = False
        outbox, self._outbox = self._outbox, {}  # first: a failing request must not be sent again
        for decoder, requests in outbox.items():
            self._send(decoder, requests)

    def _send(self, decoder: str, requests: list[Request]) -> None:
        """If a message fails, sends its requests one by one, so that a bad one fails alone."""
        if self.workers is None:
            return
        try:
            self.workers.submit(decoder, requests)
        except Exception as error:
            if len(requests) == 1:
                self._not_sent(requests[0], error)
            else:
                for request in requests:
                    self._send(decoder, [request])
