"""Threads that work until they are closed."""

import logging
import threading
from abc import ABC, abstractmethod

logger = logging.getLogger(__name__)


class Loop(ABC):
    """A thread that runs `loop` until it is closed. `failure`: the error that ended it early."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def thread_id(self) -> int:
        """0 before the start."""
        return self._thread.ident or 0

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self, timeout: float = 5.0) -> None:
        """Waits up to `timeout` seconds for the thread to finish what it is doing."""
        self.closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self.loop()
        except BaseException as error:
            logger.exception("%s ended", type(self).__name__)
            self.failure = error

    @abstractmethod
    def loop(self) -> None:
        """Runs in the thread, and returns soon after `closing` is set."""
