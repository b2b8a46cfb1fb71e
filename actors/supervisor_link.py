"""A frontend's way to its engine's supervisor, which may die and be started again by Ray."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from antiphon.actors.address import Address
from antiphon.actors.attachment import Attachment, Known
from antiphon.actors.membership import WINDOW_SECONDS
from antiphon.actors.processes import own_error, why_gone
from antiphon.actors.pulse import Pulse
from antiphon.config.errors import AntiphonError, EngineDeadError
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

RETURN_SECONDS = 60.0  # for Ray to start a supervisor again
AGAIN_SECONDS = 0.05  # between calls of one that is away


class SupervisorLink:
    """Of one frontend."""

    def __init__(self, supervisor: Any, attachment: Attachment) -> None:
        self.handle = supervisor
        self._address = attachment.address
        self._max_restarts = attachment.blueprint.config.workers.max_restarts
        self._deaths: deque[float] = deque()

    def attach(self, frontend: str, address: Address) -> None:
        """From now on the supervisor tells of the members, and hears that this frontend lives."""
        self._frontend, self._own_address = frontend, address
        self._attached = self.handle.attach.remote(frontend, address)
        self._pulse = Pulse(Incarnation(frontend, 0), self._address, lambda: ({}, b""))
        self._pulse.start()

    def detach(self) -> None:
        self._pulse.closing.set()

    async def ending(self, known: Callable[[], Known | None]) -> str:
        """Why the engine can't go on, as soon as that is known. A supervisor that dies is no reason
        while Ray starts it again: then it is told what is `known` of its engine, which only the
        process that has started the engine does; others wait for that.

        Raises EngineDeadError where no supervisor will come."""
        while True:
            try:
                return str(await self._attached)
            except RayError as error:
                logger.warning("the engine's supervisor ended: %s", why_gone(error))
            await self._recover(known())

    async def _recover(self, known: Known | None) -> None:
        """Raises EngineDeadError."""
        if known is not None:
            self._count_death()
            await self.call("resume", known)
        attachment = await self.call("attachment")
        self._pulse.closing.set()
        self._address = attachment.address
        self.attach(self._frontend, self._own_address)
        logger.info("the engine's supervisor was started again")

    def _count_death(self) -> None:
        """Raises EngineDeadError where a further start makes no sense."""
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - WINDOW_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) > self._max_restarts:
            ray.kill(self.handle, no_restart=True)
            raise EngineDeadError(
                f"the engine's supervisor ended {len(self._deaths)} times within "
                f"{WINDOW_SECONDS / 60:g} minutes (max_restarts={self._max_restarts})"
            )

    async def call(self, method: str, *arguments: Any) -> Any:
        """What a call of the supervisor returns or raises; waits for one that is being started
        again. Raises EngineDeadError where none will be."""
        end = time.monotonic() + RETURN_SECONDS
        while True:
            try:
                return await getattr(self.handle, method).remote(*arguments)
            except RayTaskError as error:
                if isinstance(error, AntiphonError):
                    raise own_error(error) from None
                raise
            except RayActorError as error:
                if isinstance(error, ActorDiedError) or time.monotonic() > end:
                    raise EngineDeadError(
                        "the engine's supervisor ended, as does one whose starter ends: "
                        f"{why_gone(error)}"
                    ) from None
            await asyncio.sleep(AGAIN_SECONDS)
