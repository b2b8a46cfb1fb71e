"""The workers of one engine as the engine sees them: Ray actors, or threads of this process."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from antiphon.scheduler.request import Request, StepOutput


class Workers(ABC):
    """Calls come from the engine's event loop, except `keep` and `close`. Only `stats` waits for an
    answer of the workers.

    `info`: the placement, and for each half its device, dtype and attention backend.
    """

    info: dict[str, Any]

    def keep(self, key: str, payload: Any) -> Any:
        """The form in which a request carries `payload`, whose content has this key. From any
        thread; may take milliseconds."""
        return payload

    @abstractmethod
    def submit(self, decoder: str, requests: list[Request]) -> None:
        """Sends requests to a decoder worker. If it raises, none of them was sent."""

    @abstractmethod
    def cancel(self, decoder: str, request: Request) -> None:
        """Asks a decoder to end a request that was submitted."""

    @abstractmethod
    def stop(self, decoder: str, request: Request) -> None:
        """As `cancel`, for a request that is done: its text met a stop string."""

    def release(self, request: Request) -> None:  # noqa: B027
        """The request has ended: its stored input may go. Nothing to do if none is stored."""

    @abstractmethod
    async def receive(self) -> StepOutput:
        """The next output of any decoder worker."""

    @abstractmethod
    async def watch(self) -> None:
        """Waits until a worker ends; raises EngineDeadError then."""

    @abstractmethod
    async def stats(self) -> list[dict[str, int]]:
        """The counters of each decoder worker."""

    @abstractmethod
    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets `receive` return the workers' outputs in `loop`, which is running."""

    @abstractmethod
    def detach(self) -> None:
        """Ends receiving. Called in the loop that was attached, unless that is closed."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers at once. May be called twice, from any thread; takes seconds if Ray ends
        too."""
