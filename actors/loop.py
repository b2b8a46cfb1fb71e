"""A thread that works until it is closed, and says what ended it otherwise."""

import logging
import threading
from abc import ABC, abstractmethod

logger = logging.getLogger(__name__)


class Loop(ABC):
    def __init__(self) -> None:
        self.closing = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self, patience: float = 5.0) -> None:
        """Waits so many seconds for the end of what the thread is doing."""
        self.closing.set()
        if self._thread.ident is not None:
            self._thread.join(patience)

    def _run(self) -> None:
        try:
            self.loop()
        except BaseException as error:
            logger.exception("%s ended", type(self).__name__)
            self.failure = error

    @abstractmethod
    def loop(self) -> None:
        """Until `closing` is set."""
