"""A limit on the bytes of sound, pictures and videos that are in memory at a time."""

import asyncio
from collections import deque
from typing import Self

Wait = tuple[int, int, asyncio.Future[None]]  # bytes asked for, bytes held, and the answer


class Hold:
    """A part of a budget, held inside `async with`."""

    def __init__(self, budget: "ByteBudget", count: int) -> None:
        self._budget, self._expected, self.count = budget, count, 0

    async def __aenter__(self) -> Self:
        """Waits until the expected bytes are free. Does not wait for 0 bytes."""
        await self.resize(self._expected)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.set(0)

    async def resize(self, count: int) -> None:
        """Holds `count` bytes from now on. Waits until there is room for what they are more."""
        if count > self.count:
            await self._budget.acquire(count - self.count, self.count)
            self.count = count
        else:
            self.set(count)

    def take(self, count: int) -> bool:
        """As `resize`, if there is room for it now. Otherwise changes nothing, and is False."""
        has_room = self._budget.has_room(count - self.count)
        if has_room:
            self.set(count)
        return has_room

    def set(self, count: int) -> None:
        """As `resize`, for what is in memory already. Does not wait."""
        self._budget.held += count - self.count
        self.count = count
        self._budget.wake()


class ByteBudget:
    """`limit` bytes, given out in the order of asking: first to those that hold some already, as
    they give theirs back once they have the rest. If all that is held belongs to those that wait,
    or nothing is held, the first one gets any amount: otherwise they would wait for each other."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._of_waiting = 0  # bytes that are held by those that wait for more
        self._growing: deque[Wait] = deque()
        self._waiting: deque[Wait] = deque()

    def has_room(self, count: int) -> bool:
        """Whether so much is free, and nobody waits for it."""
        is_free = self.held + count <= self.limit
        return is_free and not self._growing and not self._waiting

    def hold(self, count: int) -> Hold:
        """For `async with`."""
        return Hold(self, count)

    async def acquire(self, count: int, own: int = 0) -> None:
        """`own`: bytes that the asker holds already."""
        queue = self._growing if own else self._waiting
        if not count or (not self._growing and not queue and self._fits(count)):
            self.held += count
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append((count, own, granted))
        self._of_waiting += own
        self.wake()  # the last one that did not wait may be this one
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._of_waiting -= own
            else:  # it was granted at the same moment
                self.held -= count
            self.wake()
            raise

    def _fits(self, count: int) -> bool:
        return self.held == self._of_waiting or self.held + count <= self.limit

    def wake(self) -> None:
        """Grants what fits now, in order."""
        for queue in (self._growing, self._waiting):
            while queue:
                count, own, granted = queue[0]
                if not granted.done():
                    if not self._fits(count):
                        return
                    self.held += count
                    self._of_waiting -= own
                    granted.set_result(None)
                queue.popleft()
