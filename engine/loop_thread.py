"""An event loop in a thread of its own, and calls into it from other threads."""

import asyncio
import logging
import os
import queue
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from antiphon.config.errors import (
    AntiphonError,
    ConfigurationError,
    EngineDeadError,
    RequestFailed,
    describe,
)
from antiphon.engine.callers import as_one_caller
from antiphon.engine.read_ahead import ReadAhead
from antiphon.runtime.forks import REMEDY

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
T = TypeVar("T")

MAX_IN_FLIGHT = 2048  # inputs of one `as_completed` that are in the loop at a time
CLOSED = "the engine was closed"


class LoopThread:
    """For any number of calling threads. Calls after `stop` raise EngineDeadError."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        # Held while a call is submitted: one behind the loop's end would wait for ever.
        self._gate = threading.RLock()  # a finalizer may come in between
        self.stopped = False
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="antiphon-engine", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        """Runs the loop until `stop`. SystemExit in one call (a `progress` that calls sys.exit())
        leaves the loop too, and is told to that call; the loop goes on for the others."""
        while True:
            try:
                return self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                logger.warning("a call in the engine's loop raised", exc_info=True)

    @property
    def is_copy(self) -> bool:
        """Whether this is a copy in a forked process: the loop's thread stayed in the parent."""
        return os.getpid() != self._pid

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What `coroutine` returns or raises. An interrupted call cancels it."""
        future = self.submit(coroutine)
        try:
            return _result(future)
        except BaseException:
            future.cancel()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Starts `coroutine` in the loop. Raises EngineDeadError after the loop's end and in a
        forked process, and ConfigurationError in the loop's own thread."""
        try:
            self._check_caller()
            with self._gate:
                # While the interpreter ends, daemon threads have stopped.
                if not self.stopped and not sys.is_finalizing():
                    return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except AntiphonError:
            coroutine.close()
            raise
        coroutine.close()
        raise EngineDeadError(CLOSED)

    def _check_caller(self) -> None:
        if self.is_copy:
            raise EngineDeadError(
                f"this engine belongs to process {self._pid}, "
                f"from which this one was forked; {REMEDY}"
            )
        if threading.current_thread() is self.thread:
            raise ConfigurationError(
                "this is the engine's own thread, in which a finalizer may run: "
                "a call would wait for itself"
            )

    def as_completed(
        self,
        items: Iterable[Item],
        call: Callable[[Item], Coroutine[Any, Any, T]],
        ahead: ReadAhead | None = None,
    ) -> Iterator[tuple[int, T | AntiphonError]]:
        """Runs `call` on every item, at most MAX_IN_FLIGHT at a time, and yields each item's number
        and result as it completes. All items are of one caller. They are taken while `ahead`, which
        `items` and `call` keep, has room; one is always taken when none is in flight.

        Whatever a call raises becomes that item's result. Raises EngineDeadError for a dead engine.
        Leaving the loop early cancels the calls in flight.
        """
        completed: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # None: there is room
        in_flight: dict[int, Future[T]] = {}
        numbered, call = enumerate(items), as_one_caller(call)
        more = True
        if ahead is not None:
            ahead.call_on_room(partial(completed.put, None))

        def takes_more() -> bool:
            has_room = len(in_flight) < MAX_IN_FLIGHT and (ahead is None or ahead.has_room)
            return more and completed.empty() and (has_room or not in_flight)

        try:
            while more or in_flight:
                while takes_more():
                    if more := (pair := next(numbered, None)) is not None:
                        index, item = pair
                        in_flight[index] = future = self.submit(call(item))
                        future.add_done_callback(partial(_put, completed, index))
                if in_flight:
                    if (ended := completed.get()) is None:
                        continue
                    outcome: T | AntiphonError = _outcome(in_flight.pop(ended))
                    yield ended, outcome
        finally:
            for future in in_flight.values():
                future.cancel()

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """What `items` yields. Leaving the loop early closes it."""
        try:
            while True:
                try:
                    yield self.run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            with suppress(EngineDeadError):  # the caller has got that error already
                self.run(items.aclose())

    def stop(self) -> None:
        """Cancels what runs in the loop, and ends the thread."""
        with self._gate:
            self.stopped = True
            cancelling = asyncio.run_coroutine_threadsafe(_cancel_others(), self.loop)
        cancelling.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def _put(completed: "queue.SimpleQueue[int | None]", index: int, _: Future[Any]) -> None:
    completed.put(index)


def _result(future: "Future[T]") -> T:
    """What a call returned or raised; EngineDeadError if closing the engine cancelled it."""
    try:
        return future.result()
    except CancelledError:
        raise EngineDeadError(CLOSED) from None


def _outcome(future: "Future[T]") -> T | AntiphonError:
    """As `_result`, but returns an error that concerns this call alone."""
    try:
        return _result(future)
    except EngineDeadError:
        raise
    except AntiphonError as error:
        return error
    except Exception as error:
        failure = RequestFailed(describe(error))
        failure.__cause__ = error
        return failure


async def _cancel_others() -> None:
    """Cancels every other task of this loop, and waits for their ends."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
