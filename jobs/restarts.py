"""An engine of this process that is started again when it dies."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from antiphon.config.errors import EngineDeadError, describe
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.loop_thread import LoopThread
from antiphon.jobs.entries import Entry
from antiphon.jobs.records import Record
from antiphon.jobs.work import Work, fetching_threads

ATTEMPTS = 3  # of an entry whose engine dies: it or another one may be the cause

logger = logging.getLogger(__name__)


class EngineNotRestartedError(EngineDeadError):
    """The engine has died and cannot be started again: whatever this process is asked
    would fail too."""


class RestartingEngine:
    """`started` gives a new engine. `on_failure` is called when it does so no more; it
    may end the process. `perform` belongs to one event loop; the engine has its own, in
    a thread."""

    def __init__(
        self,
        started: Callable[[], Coroutine[Any, Any, AsyncEngine]],
        on_failure: Callable[[], None],
    ) -> None:
        self._started, self._on_failure = started, on_failure
        self._thread = LoopThread()
        self._fetching = fetching_threads()  # of one engine after the other
        self._starts = self._dead = 0  # of engines: the last one, and the last one that has died
        self._alone = asyncio.Lock()
        self._suspects = 0  # entries whose engine has died, that are to be tried alone
        self._calm = asyncio.Event()  # there are none
        self._start()

    def _start(self) -> None:
        engine = self._thread.run(self._started())
        audio = engine.inputs.audio
        self._engine, self.speech = engine, audio is not None
        rate = audio.sampling_rate if audio else None
        self._work = Work(engine, rate, threads=self._fetching)
        self._starts += 1

    async def perform(self, entry: Entry) -> Record:
        """The record of an entry. An engine that dies is started again; its rows then
        go one at a time, and others wait, so that the row that kills it is found.
        Raises the error that this entry ends with, or EngineNotRestartedError."""
        while self._suspects:
            await self._calm.wait()
        try:
            return await self._once(entry)
        except EngineDeadError as error:
            death = error
        self._suspects += 1
        self._calm.clear()
        try:
            for _ in range(ATTEMPTS - 1):
                async with self._alone:
                    if self._starts == self._dead:
                        await self._restart()
                    try:
                        return await self._once(entry)
                    except EngineDeadError as error:
                        death = error
        finally:
            self._suspects -= 1
            if not self._suspects:
                self._calm.set()
        raise death

    async def _restart(self) -> None:
        """Raises EngineNotRestartedError: some faults of a GPU stay until the process ends."""
        try:
            await asyncio.to_thread(self._thread.run, self._engine.close())
            await asyncio.to_thread(self._start)
        except Exception as error:
            message = f"the engine died and cannot be started again: {describe(error)}"
            logger.exception("%s", message)
            self._on_failure()
            raise EngineNotRestartedError(message) from error

    async def _once(self, entry: Entry) -> Record:
        start = self._starts
        try:
            return await asyncio.wrap_future(self._thread.submit(self._work.perform(entry)))
        except EngineDeadError:
            self._dead = max(self._dead, start)
            raise
