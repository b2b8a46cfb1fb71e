"""The workers of one engine as the engine sees them: Ray actors, or threads of this process."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from antiphon.actors.messages import FrontendMessage, Member, Message

Handle = Callable[[FrontendMessage], None]


class Workers(ABC):
    """Calls come from the engine's event loop, except `close`. Only `stats` waits for an answer of
    the workers.

    `info`: the placement, and for each half its device, dtype and attention backend.
    `colocated`: whether each decoder has its own encoder in its process. `members`: the workers, as
    far as a supervisor has told of them.
    """

    info: dict[str, Any]
    members: Sequence[Member] = ()
    colocated: bool

    @abstractmethod
    def send(self, worker: str, message: Message) -> None:
        """Returns at once; a worker handles messages in their order. Long arrays in a message must
        not change afterwards.

        Raises MessageError if the message cannot travel, and PeerGone. Then nothing was sent.
        """

    @abstractmethod
    def attach(self, frontend: str, loop: asyncio.AbstractEventLoop, handle: Handle) -> None:
        """Lets the workers send messages to `frontend`, the name of this engine. `handle` gets them
        in `loop`, which is running; if it raises, `watch` raises EngineDeadError."""

    @abstractmethod
    def introduce(self) -> None:
        """Tells all workers once more where `frontend` receives. Changes nothing where they know
        it."""

    @abstractmethod
    async def watch(self) -> None:
        """Waits until a worker or the receiving ends; raises EngineDeadError then."""

    @abstractmethod
    async def stats(self) -> list[dict[str, int]]:
        """The counters of each worker."""

    @abstractmethod
    def detach(self) -> None:
        """Ends receiving. Called in the loop that was attached, unless that is closed."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers at once. May be called twice, from any thread; takes seconds if Ray ends
        too."""
