"""What those who use a worker must know should it die, and when a heartbeat must say it at once."""

import threading
from collections.abc import Iterable


class News:
    """`due`: set when a heartbeat should go out at once. The worker notes what comes; heartbeats,
    in a thread of their own, note what they have told."""

    def __init__(self, due: threading.Event | None = None) -> None:
        self.due = due or threading.Event()
        self._senders: set[str] = set()  # as the last heartbeat, or the next one, tells
        self._trial = 0

    def told(self, senders: Iterable[str]) -> None:
        """A heartbeat tells of the open work of these."""
        self._senders = set(senders)

    def note_senders(self, senders: Iterable[str]) -> None:
        """Work of these has come, which the next heartbeat finds in the worker's tables: they may
        be others than those of all open work."""
        if new := set(senders) - self._senders:
            self._senders = self._senders | new
            self.due.set()

    def note_trial(self, mark: int) -> None:
        """What is on trial (see `Trials`)."""
        if mark != self._trial:
            self._trial = mark
            self.due.set()
