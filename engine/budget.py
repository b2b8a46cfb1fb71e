"""How much sound is in memory at a time."""

import asyncio
from collections import deque
from typing import Self


class Hold:
    """A part of a budget, from entering it to leaving it. What was expected may be corrected once it is known."""

    def __init__(self, budget: "ByteBudget", count: int) -> None:
        self._budget, self._expected, self.count = budget, count, 0

    async def __aenter__(self) -> Self:
        """Waits until as many bytes are free. None are asked for where none are expected."""
        await self._budget.take(self._expected)
        self.count = self._expected
        return self

    async def __aexit__(self, *_: object) -> None:
        self.set(0)

    def set(self, count: int) -> None:
        self._budget.held += count - self.count
        self.count = count
        self._budget.wake()


class ByteBudget:
    """`limit` bytes. Who asks first goes first; one may always go, however much it needs."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def hold(self, count: int) -> Hold:
        """For `async with`."""
        return Hold(self, count)

    async def take(self, count: int) -> None:
        if not count or (not self._waiting and self._fits(count)):
            self.held += count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn at the same moment
                self.held -= count
            self.wake()
            raise

    def _fits(self, count: int) -> bool:
        return not self.held or self.held + count <= self.limit

    def wake(self) -> None:
        """Lets in whoever fits now, in order."""
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            count, turn = self._waiting.popleft()
            if not turn.done():
                self.held += count
                turn.set_result(None)
