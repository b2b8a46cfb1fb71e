"""Threads that a program does not wait for when it ends."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class ThreadsClosed(RuntimeError):
    """The threads were shut down."""


class Work(Protocol):
    """What a thread does. Neither call raises."""

    def run(self) -> None: ...

    def cancel(self) -> object:
        """It will not be run."""
        ...


class ForFuture(Generic[T]):
    """Work whose outcome is a future's."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.outcome: Future[T] = Future()

    def run(self) -> None:
        if self.outcome.set_running_or_notify_cancel():
            try:
                self.outcome.set_result(self._call())
            except BaseException as error:
                self.outcome.set_exception(error)

    def cancel(self) -> None:
        self.outcome.cancel()


class ForLoop(Generic[T]):
    """Work whose outcome is that of a future of an event loop: with neither locks nor conditions
    of its own, it costs that loop half of what another future does."""

    def __init__(self, call: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._call, self._loop = call, loop
        self.outcome: asyncio.Future[T] = loop.create_future()

    def run(self) -> None:
        if self.outcome.cancelled():
            return
        try:
            answer = partial(self.outcome.set_result, self._call())
        except StopIteration as error:  # which no future takes
            failure = RuntimeError("work in a thread raised StopIteration")
            failure.__cause__ = error
            answer = partial(self.outcome.set_exception, failure)
        except BaseException as error:
            answer = partial(self.outcome.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits for it
            self._loop.call_soon_threadsafe(self._answer, answer)

    def _answer(self, answer: Callable[[], None]) -> None:
        if not self.outcome.done():
            answer()

    def cancel(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.outcome.cancel)


class DaemonThreads(Executor):
    """As `ThreadPoolExecutor`, but the interpreter does not wait for its threads when it ends.

    Otherwise long work (decoding a recording of six hours, starting Ray) would keep an
    interrupted program alive.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._idle = 0  # threads waiting for work; negative: work waiting for threads
        self._closed = False
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Raises ThreadsClosed after `shutdown`, and RuntimeError if no thread can be started."""
        work = ForFuture(partial(function, *args, **kwargs))
        self.do(work)
        return work.outcome

    def do(self, work: Work) -> None:
        """Raises as `submit`."""
        with self._lock:
            if self._closed:
                raise ThreadsClosed(f"the threads {self._name} were shut down")
            if self._idle <= 0 and len(self._threads) < self._count:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()  # may raise: nothing has changed yet
                self._threads.append(thread)
                self._idle += 1
            self._work.put(work)
            self._idle -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
        with suppress(queue.Empty):  # no `empty()` before: a thread may take the last one meanwhile
            while cancel_futures:
                if (work := self._work.get_nowait()) is not None:
                    work.cancel()
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work.run()
            del work  # an idle thread holds nobody's sound
            with self._lock:
                self._idle += 1
