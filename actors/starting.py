"""Workers are started by the process that started their engine, at its supervisor's word: Ray ends
what a dead process had started, and a supervisor's death must end no worker.

Where that process does not answer in time, the supervisor starts the worker itself; such a one ends
with its supervisor.
"""

import asyncio
import logging
from typing import Any

from ray.exceptions import RayError

from antiphon.actors.blueprint import Blueprint, Started
from antiphon.actors.members import Start
from antiphon.actors.processes import why_gone
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0  # for the engine's process, whose event loop may be busy
AGAIN_SECONDS = 0.1  # between calls of a supervisor that is away


class StartOrders:
    """The supervisor's side; what has no underscore is called through Ray."""

    def __init__(self) -> None:
        self._orders: asyncio.Queue[Start] = asyncio.Queue()
        self._open: dict[Incarnation, asyncio.Future[Started]] = {}

    async def _ordered(self, order: Start, seconds: float = ANSWER_SECONDS) -> Started | None:
        """The processes of a new incarnation; None if nobody starts them in time."""
        answer = self._open[order.incarnation] = asyncio.get_running_loop().create_future()
        self._orders.put_nowait(order)
        try:
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            return None
        finally:
            del self._open[order.incarnation]

    async def next_start(self) -> Start:
        """What is to be started next. Of the process that has started the engine, alone."""
        while True:
            order = await self._orders.get()
            if order.incarnation in self._open:  # it is waited for still
                return order

    async def take_started(self, incarnation: Incarnation, started: Started) -> bool:
        """False if it comes too late: nobody needs it any more."""
        answer = self._open.get(incarnation)
        if answer is None or answer.done():
            return False
        answer.set_result(started)
        return True


class Starter:
    """The side of the engine's process. `started`: what it has started, of each worker the last
    incarnation; its first processes are there already."""

    def __init__(self, blueprint: Blueprint, started: dict[Incarnation, Started]) -> None:
        self._blueprint, self.started = blueprint, started

    async def serve(self, supervisor: Any) -> None:
        """Until it is cancelled. `supervisor`: its actor, which may be started again."""
        while True:
            try:
                await self._answer(await supervisor.next_start.remote(), supervisor)
            except RayError as error:
                logger.debug("no start for a supervisor that is away: %s", why_gone(error))
                await asyncio.sleep(AGAIN_SECONDS)

    async def _answer(self, order: Start, supervisor: Any) -> None:
        incarnation = order.incarnation
        started = await asyncio.to_thread(self._blueprint.start, incarnation, order.role)
        for earlier in [one for one in self.started if one.name == incarnation.name]:
            del self.started[earlier]
        self.started[incarnation] = started
        is_taken = False
        try:
            is_taken = await supervisor.take_started.remote(incarnation, started)
        finally:
            if not is_taken:
                self.started.pop(incarnation, None)
                started.kill()
