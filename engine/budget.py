"""A limit on the bytes of audio that are in memory at a time."""

import asyncio
from collections import deque
from typing import Self


class Hold:
    """A part of a budget, held inside `async with`. `set` corrects an estimate once it is known."""

    def __init__(self, budget: "ByteBudget", count: int) -> None:
        self._budget, self._expected, self.count = budget, count, 0

    async def __aenter__(self) -> Self:
        """Waits until the expected bytes are free. Does not wait for 0 bytes."""
        await self._budget.acquire(self._expected)
        self.count = self._expected
        return self

    async def __aexit__(self, *_: object) -> None:
        self.set(0)

    def set(self, count: int) -> None:
        self._budget.held += count - self.count
        self.count = count
        self._budget.wake()


class ByteBudget:
    """`limit` bytes, given out in the order of asking. If nothing is held, any amount is given."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def hold(self, count: int) -> Hold:
        """For `async with`."""
        return Hold(self, count)

    async def acquire(self, count: int) -> None:
        if not count or (not self._waiting and self._fits(count)):
            self.held += count
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # it was granted at the same moment
                self.held -= count
            self.wake()
            raise

    def _fits(self, count: int) -> bool:
        return not self.held or self.held + count <= self.limit

    def wake(self) -> None:
        """Grants what fits now, in order."""
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            count, granted = self._waiting.popleft()
            if not granted.done():
                self.held += count
                granted.set_result(None)
