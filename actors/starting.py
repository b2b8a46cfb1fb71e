"""Workers are started by the process that started their engine, at its supervisor's word: Ray ends
what a dead process had started, and a supervisor's death must end no worker.

Where that process does not answer in time, the supervisor starts the worker itself; such a one ends
with its supervisor.
"""

import asyncio
import logging
import threading
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError

from antiphon.actors.blueprint import Blueprint, Started
from antiphon.actors.members import Start
from antiphon.actors.processes import why_gone
from antiphon.config.errors import describe
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0  # for the engine's process, whose event loop may be busy
AGAIN_SECONDS = 0.1  # between calls of a supervisor that is away


class StartOrders:
    """The supervisor's side; what has no underscore is called through Ray."""

    def __init__(self) -> None:
        self._orders: asyncio.Queue[Start] = asyncio.Queue()
        self._open: dict[Incarnation, asyncio.Future[Started | None]] = {}

    async def _ordered(self, order: Start, seconds: float = ANSWER_SECONDS) -> Started | None:
        """The processes of a new incarnation; None if nobody starts them in time, or can."""
        answer = self._open[order.incarnation] = asyncio.get_running_loop().create_future()
        self._orders.put_nowait(order)
        try:
            # Not `wait_for`: it drops an answer that comes in the moment of the timeout.
            await asyncio.wait([answer], timeout=seconds)
            return answer.result() if answer.done() else None
        finally:
            del self._open[order.incarnation]

    async def next_start(self) -> Start:
        """What is to be started next. Of the process that has started the engine, alone."""
        while True:
            order = await self._orders.get()
            if order.incarnation in self._open:  # it is waited for still
                return order

    async def take_started(self, incarnation: Incarnation, started: Started | None) -> bool:
        """`started`: None if it could not be. False if it comes too late: nobody needs it any
        more."""
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
        self._lock, self._closed = threading.Lock(), False  # the lock: held during a start
        self._untaken: Started | None = None  # the supervisor does not have it yet

    async def serve(self, supervisor: Any) -> None:
        """Until it is cancelled, or Ray will not start the supervisor again. `supervisor`: its
        actor."""
        while not self._closed:
            try:
                await self._answer(await supervisor.next_start.remote(), supervisor)
            except ActorDiedError:
                return
            except RayActorError as error:
                logger.debug("no start for a supervisor that is away: %s", why_gone(error))
                await asyncio.sleep(AGAIN_SECONDS)

    def close(self) -> None:
        """Starts nothing more, waits for a start that is under way, and ends what it has started.
        From any thread, before this process leaves Ray: a call behind that would start another."""
        with self._lock:
            self._closed = True
        self._end_untaken()

    async def _answer(self, order: Start, supervisor: Any) -> None:
        incarnation = order.incarnation
        started = None
        try:
            started = await asyncio.to_thread(self._start, order)
        except Exception as error:  # the supervisor tries next, and says what it meets
            logger.warning("%s could not be started here: %s", incarnation, describe(error))
        if self._closed:
            return
        if started is not None:
            for earlier in [one for one in self.started if one.name == incarnation.name]:
                del self.started[earlier]
            self.started[incarnation] = started
        try:
            is_taken = await supervisor.take_started.remote(incarnation, started)
        except Exception:  # a cancellation is none: `close` follows
            self._drop(incarnation)
            raise
        if is_taken:
            self._untaken = None
        else:
            self._drop(incarnation)

    def _start(self, order: Start) -> Started | None:
        """In a thread that goes on when its caller is cancelled. None once this is closed."""
        with self._lock:
            if not self._closed:
                self._untaken = self._blueprint.start(order.incarnation, order.role)
            return self._untaken

    def _drop(self, incarnation: Incarnation) -> None:
        self.started.pop(incarnation, None)
        self._end_untaken()

    def _end_untaken(self) -> None:
        with self._lock:
            untaken, self._untaken = self._untaken, None
        if untaken is not None:
            untaken.kill()
