"""How many requests are open at a time; more are told when to come again."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.serve.errors import ApiError, stopping

WINDOW = 64  # ends of requests that tell how fast they end
POLL_SECONDS = 0.02
LONGEST_WAIT = 60  # seconds that a client is told to wait at most


class Admission:
    """For one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit, self.open, self.turned_away = limit, 0, 0
        self.draining = False
        self._ends: deque[float] = deque(maxlen=WINDOW)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """One open request. Raises ApiError with status 429 or 503."""
        if self.draining:
            raise stopping()
        if self.open >= self.limit:
            self.turned_away += 1
            raise ApiError(
                429,
                f"{self.open} requests are open, which is the limit: try again later",
                code="too_many_requests",
                retry_after=self.seconds_to_wait(time.monotonic()),
            )
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
            self._ends.append(time.monotonic())

    async def ended(self) -> None:
        """Waits until no request is open."""
        while self.open:
            await asyncio.sleep(POLL_SECONDS)

    def seconds_to_wait(self, now: float) -> int:
        """Whole seconds until half of the open requests will have ended, as fast as they ended
        lately."""
        if len(self._ends) < 2 or now <= self._ends[0]:
            return 1
        rate = len(self._ends) / (now - self._ends[0])
        return max(1, min(LONGEST_WAIT, round(self.open / 2 / rate)))
