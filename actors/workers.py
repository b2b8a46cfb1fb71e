"""The workers of one engine as the engine sees them, wherever they are: behind Ray, or in this process."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from antiphon.scheduler.request import Request, StepOutput


class Workers(ABC):
    """`info`: what the workers say of themselves: placement, and of each half the device, dtype and attention backend.

    Calls come from the engine's event loop, but for `keep`. None of them waits for a worker, but for `stats`.
    """

    info: dict[str, Any]

    def keep(self, key: str, payload: Any) -> Any:
        """The form in which a request should carry `payload`, whose content has this key. From any thread; may take milliseconds."""
        return payload

    @abstractmethod
    def submit(self, decoder: int, requests: list[Request]) -> None:
        """Sends requests to a decoder worker. Raises what keeps them from being sent; then none of them was."""

    @abstractmethod
    def cancel(self, decoder: int, request: Request) -> None:
        """Asks for the end of a request that was submitted."""

    @abstractmethod
    def stop(self, decoder: int, request: Request) -> None:
        """As `cancel`, for a request whose text met a stop string: it is done."""

    def release(self, request: Request) -> None:  # noqa: B027 (where requests hold nothing, nothing is to be done)
        """The request has ended: what was kept for it may go."""

    @abstractmethod
    async def receive(self) -> StepOutput:
        """The next output of any decoder worker."""

    @abstractmethod
    async def watch(self) -> None:
        """Raises EngineDeadError when a worker has ended, which none does while all is well."""

    @abstractmethod
    async def stats(self) -> list[dict[str, int]]:
        """The counters of each decoder worker."""

    @abstractmethod
    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on `receive` gives the workers' outputs in `loop`, which is running."""

    @abstractmethod
    def detach(self) -> None:
        """Nobody receives outputs any more. In the loop that was attached, unless it is closed."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers, at once. May be called twice, from any thread; takes seconds where Ray ends too."""
