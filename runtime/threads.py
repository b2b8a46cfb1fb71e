"""Threads that a program does not wait for when it ends."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class ThreadsClosed(RuntimeError):
    """The threads were shut down."""


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
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Raises ThreadsClosed after `shutdown`, and RuntimeError if no thread can be started."""
        outcome: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise ThreadsClosed(f"the threads {self._name} were shut down")
            if self._idle <= 0 and len(self._threads) < self._count:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()  # may raise: nothing has changed yet
                self._threads.append(thread)
                self._idle += 1
            self._work.put((lambda: function(*args, **kwargs), outcome))
            self._idle -= 1
        return outcome

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
        with suppress(queue.Empty):  # no `empty()` before: a thread may take the last one meanwhile
            while cancel_futures:
                if (item := self._work.get_nowait()) is not None:
                    item[1].cancel()
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            function, outcome = item
            if outcome.set_running_or_notify_cancel():
                try:
                    outcome.set_result(function())
                except BaseException as error:
                    outcome.set_exception(error)
            del item, function, outcome  # an idle thread holds nobody's sound
            with self._lock:
                self._idle += 1
