"""What calls wait for beside their requests: threads that read, sound that has not come yet."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from antiphon.config.errors import EngineDeadError

T = TypeVar("T")


class Waits:
    """Of one engine, from its start to its end. For one event loop."""

    def __init__(self) -> None:
        self._open: set[asyncio.Future[Any]] = set()
        self._ended: str | None = None  # why

    async def result(self, awaited: Awaitable[T]) -> T:
        """What `awaited` gives. Raises EngineDeadError as soon as the engine ends."""
        future = asyncio.ensure_future(awaited)
        self._open.add(future)
        try:
            return await future
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._ended is None or (caller is not None and caller.cancelling()):
                raise
            raise EngineDeadError(self._ended) from None
        finally:
            self._open.discard(future)

    def end(self, reason: str) -> None:
        """The engine has ended. A thread goes on with what it does; nobody waits for it."""
        self._ended = self._ended or reason
        for future in list(self._open):
            future.cancel()
