"""What encoder and decoder workers share: a loop in a thread of its own, fed through a queue of commands.

These are plain objects; `actors/hosts.py` has the Ray actors that hold one or both of them.
"""

import logging
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.02  # how long an idle loop sleeps before it looks at its deadlines again


class Worker(ABC):
    """Commands go into `inbox` from any thread; the loop carries them out between two turns, on a CUDA stream of its own."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.closing = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self.closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
            with torch.cuda.stream(stream):
                while not self.closing.is_set():
                    self._drain(wait=self.idle)
                    self.turn()
        except BaseException as error:
            logger.exception("%s ended", type(self).__name__)
            self.failure = error

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
    def device(self) -> torch.device: ...

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
