"""How long a caller waits. Workers keep deadlines too, but not a worker that hangs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from antiphon.config.errors import RequestExpired
from antiphon.inputs.calls.transcription import checked_timeout

GRACE_SECONDS = 0.15  # for the worker to end the request, as its error says more

LEAST_SECONDS = 1e-3  # that a worker is given


class Deadline:
    """`timeout` seconds from now; None: never. Raises PromptError for other values."""

    def __init__(self, timeout: float | None) -> None:
        timeout = checked_timeout(timeout)
        self.timeout = timeout
        self._end = None if timeout is None else asyncio.get_running_loop().time() + timeout

    @property
    def seconds_left(self) -> float | None:
        """For a request that is sent now: at least LEAST_SECONDS; None: no limit."""
        if self._end is None:
            return None
        return max(LEAST_SECONDS, self._end - asyncio.get_running_loop().time())

    def limit(self) -> AbstractAsyncContextManager[None]:
        """Cancels what is awaited inside soon after the deadline, and raises RequestExpired."""
        return nullcontext() if self._end is None else self._limit(self._end)

    @asynccontextmanager
    async def _limit(self, end: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(end + GRACE_SECONDS) as scope:
                yield
        except TimeoutError:
            if scope.expired():
                raise RequestExpired(f"its deadline passed after {self.timeout:g} s") from None
            raise
