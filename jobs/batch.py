"""A manifest through an engine: a bounded number of lines at a time, each written as it ends."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

from antiphon.config.errors import AntiphonError, EngineDeadError
from antiphon.jobs.entries import KEYS, Defaults, Entry, decode, entry_of_line
from antiphon.jobs.manifest import Line
from antiphon.jobs.meter import Meter
from antiphon.jobs.output import Output
from antiphon.jobs.records import Record, of_error

READ_LINES = 256  # taken from the manifest at a time, in a thread
CHECKPOINT_SECONDS = 30.0


class TooManyFailed(AntiphonError):
    """More lines have failed than the caller allows."""


class Batch:
    """`perform` gives the record of an entry, or raises what is wrong with it. At most
    `in_flight` lines are open at a time. `max_failed`: None for any number."""

    def __init__(
        self,
        lines: Iterator[Line],
        perform: Callable[[Entry], Awaitable[Record]],
        output: Output,
        meter: Meter,
        defaults: Defaults,
        *,
        in_flight: int,
        max_failed: int | None = None,
    ) -> None:
        self._lines, self._perform, self._output = lines, perform, output
        self._meter, self._defaults = meter, defaults
        self._in_flight, self._max_failed = in_flight, max_failed
        self._read: deque[Line] = deque()
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """To the end of the manifest. Raises EngineDeadError when the engine can't go
        on, TooManyFailed, or OSError when the output can't be written; what has been
        written before stays valid."""
        try:
            async with asyncio.TaskGroup() as group:
                checkpoints = group.create_task(self._checkpoints())
                workers = [group.create_task(self._work()) for _ in range(self._in_flight)]
                await asyncio.wait(workers)
                checkpoints.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    async def _work(self) -> None:
        while (line := await self._next_line()) is not None:
            try:
                record = await self._perform(entry_of_line(line, self._defaults))
            except EngineDeadError:
                raise
            except Exception as error:
                self._failed(line, error)
            else:
                await self._succeeded(line, record)

    async def _next_line(self) -> Line | None:
        if self._read:
            return self._read.popleft()
        async with self._reading:
            if not self._read:
                self._read.extend(await asyncio.to_thread(self._take))
            return self._read.popleft() if self._read else None

    def _take(self) -> list[Line]:
        return list(islice(self._lines, READ_LINES))

    async def _succeeded(self, line: Line, record: Record) -> None:
        try:
            shard = self._output.add(record)
        except AntiphonError as error:
            self._failed(line, error)
            return
        self._meter.add(record.get("duration") or 0.0)
        if shard is not None:
            await asyncio.to_thread(self._output.publish, shard)

    def _failed(self, line: Line, error: Exception) -> None:
        self._output.fail(of_error(line.number, *_named(line), error))
        self._meter.add(failed=True)
        if self._max_failed is not None and self._meter.failed > self._max_failed:
            raise TooManyFailed(
                f"{self._meter.failed} lines have failed, more than --max-failed "
                f"{self._max_failed}; the last one: {error}"
            )

    async def _checkpoints(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_SECONDS)
            await asyncio.to_thread(self._output.checkpoint)


def _named(line: Line) -> tuple[Any, Any]:
    """The id and the recording of a line that failed, where they can be read."""
    try:
        content = decode(line)
    except AntiphonError:
        return None, None
    spellings = ("audio", *KEYS["audio"].others)
    audio = next((content[name] for name in spellings if content.get(name)), None)
    return content.get("id"), audio


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    """The error that ended the group; the engine's death before others, which it caused."""
    flat = list(_leaves(errors))
    return next((error for error in flat if isinstance(error, EngineDeadError)), flat[0])


def _leaves(errors: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
