"""What frontends must know of a decoder should it die, and when a heartbeat must say it at once."""

import threading
from collections.abc import Iterable

from antiphon.scheduler.request import Request, RequestId


class News:
    """`due`: set when a heartbeat should go out at once. The worker notes what comes; heartbeats,
    in a thread of their own, note what they have told."""

    def __init__(self) -> None:
        self.due = threading.Event()
        self._frontends: set[str] = set()  # as the last heartbeat, or the next one, tells
        self._trial = 0

    def told(self, requests: Iterable[RequestId]) -> None:
        """A heartbeat tells of these open requests."""
        self._frontends = {name.frontend for name in requests}

    def note_requests(self, requests: Iterable[Request]) -> None:
        """These have come: they may be of another frontend than all that are open."""
        new = {request.id.frontend for request in requests} - self._frontends
        if new:
            self._frontends = self._frontends | new
            self.due.set()

    def note_trial(self, mark: int) -> None:
        """Which request is on trial (see `Trials`)."""
        if mark != self._trial:
            self._trial = mark
            self.due.set()
