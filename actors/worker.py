"""What encoder and decoder workers share: a loop in a thread of its own, fed through a queue by Ray's method calls."""

import logging
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import ray
import torch

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.02  # how long an idle loop sleeps before it looks at its deadlines again


class Worker(ABC):
    """Ray calls methods one after the other; each only puts a command into `inbox`, so none waits for the loop."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]  # a thread beside the one that takes commands
    def watch(self) -> None:
        """Returns when the worker was closed; raises what ended its loop. The engine waits for this all the time."""
        while self._thread.is_alive() and not self._closing.wait(0.2):
            pass
        if self._failure is not None:
            raise RuntimeError(f"{type(self).__name__} ended: {type(self._failure).__name__}: {self._failure}")

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._drain(wait=self.idle)
                self.turn()
        except BaseException as error:
            logger.exception("%s ended", type(self).__name__)
            self._failure = error

    def _drain(self, wait: bool) -> None:
        """Carries out every command that is there; when `wait`, sleeps a little for the first."""
        try:
            command = self.inbox.get(timeout=IDLE_SECONDS) if wait else self.inbox.get_nowait()
            while True:
                command()
                command = self.inbox.get_nowait()
        except queue.Empty:
            return

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Nothing to do until a command comes."""

    @abstractmethod
    def turn(self) -> None:
        """One round of work; short when there is none."""


def set_threads(count: int | None) -> None:
    """Torch's threads in this process; None: all cores."""
    torch.set_num_threads(count or os.cpu_count() or 1)
