"""Requests that may be the cause of deaths run on a decoder one at a time, whoever sent them.

Each frontend has one of its suspects on trial at a time (see `Suspects`), and knows nothing of
those of others. If two ran beside each other, a death would speak against both. So here they take
turns. Which one it is goes out with a heartbeat before it begins: if the worker dies, that is
known.
"""

import time
from collections.abc import Callable

from antiphon.scheduler.request import Request, RequestId, Trial
from antiphon.scheduler.sketch import fingerprint

ANNOUNCED_SECONDS = 0.1  # for the heartbeat that names it to arrive, before it begins


def trial_mark(request_id: RequestId) -> int:
    """What a heartbeat calls a request on trial."""
    return fingerprint(str(request_id))


class Trials:
    """Of one decoder replica. `clock`: seconds, never set back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[RequestId, Request] = {}
        self._running: Request | None = None
        self._begun = False
        self._begins_at = 0.0
        self._tokens = 0  # that it had before

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._running is not None

    @property
    def mark(self) -> int:
        """`trial_mark` of the one that runs or is about to; 0 if none is."""
        return 0 if self._running is None else trial_mark(self._running.id)

    def add(self, request: Request) -> None:
        self._waiting[request.id] = request

    def leave(self, request: Request) -> None:
        """It has ended; if it ran, its trial is over."""
        self._waiting.pop(request.id, None)
        if self._running is request:
            self._running = None

    def due(self) -> Request | None:
        """The one that begins now."""
        running, now = self._running, self._clock()
        if running is not None and not self._begun:
            self._begun = now >= self._begins_at
            return running if self._begun else None
        if running is not None and not self._got_on(running):
            return None
        self._running, self._begun = next(iter(self._waiting.values()), None), False
        if self._running is not None:
            del self._waiting[self._running.id]
            self._tokens = len(self._running.generated)
            self._begins_at = now + ANNOUNCED_SECONDS
        return None

    def _got_on(self, request: Request) -> bool:
        return request.trial is Trial.FIRST_TOKEN and len(request.generated) > self._tokens
