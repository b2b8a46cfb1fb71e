"""What may be the cause of deaths runs on a worker one by one, whoever sent it.

Each of those who use a worker has one of its suspects on trial at a time (see
`Suspects`), and knows nothing of those of others. If two ran beside each other, a death
would speak against both. So here they take turns. Which one it is goes out with a
heartbeat before it begins: if the worker dies, that is known.
"""

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from antiphon.scheduler.request import Request, Trial
from antiphon.scheduler.sketch import fingerprint

E = TypeVar("E")

ANNOUNCED_SECONDS = 0.1  # for the heartbeat that names it to arrive, before it begins


def trial_mark(name: Hashable) -> int:
    """What a heartbeat calls an entry on trial: the id of a request, or the key of an input."""
    return fingerprint(str(name))


class Trials(Generic[E]):
    """Of one worker; each entry has a name. `clock`: seconds, never set back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[Hashable, E] = {}
        self._running: tuple[Hashable, E] | None = None
        self._begun = False
        self._begins_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._running is not None

    def __contains__(self, name: Hashable) -> bool:
        return name in self._waiting or (self._running is not None and self._running[0] == name)

    @property
    def mark(self) -> int:
        """`trial_mark` of the one that runs or is about to; 0 if none is."""
        return 0 if self._running is None else trial_mark(self._running[0])

    def add(self, name: Hashable, entry: E) -> None:
        """Unless it is here."""
        if name not in self:
            self._waiting[name] = entry

    def leave(self, name: Hashable) -> None:
        """It has ended; if it ran, its trial is over."""
        self._waiting.pop(name, None)
        if self._running is not None and self._running[0] == name:
            self._running = None

    def due(self) -> E | None:
        """The one that begins now."""
        running, now = self._running, self._clock()
        if running is not None and not self._begun:
            self._begun = now >= self._begins_at
            return running[1] if self._begun else None
        if running is not None and not self._is_over(running[1]):
            return None
        self._running, self._begun = next(iter(self._waiting.items()), None), False
        if self._running is not None:
            name, entry = self._running
            del self._waiting[name]
            self._prepare(entry)
            self._begins_at = now + ANNOUNCED_SECONDS
        return None

    def _prepare(self, entry: E) -> None:
        """It is announced now."""

    def _is_over(self, entry: E) -> bool:
        """True if its trial is over before it has left."""
        return False


class RequestTrials(Trials[Request]):
    """Of a decoder replica: a request's trial may be over with its first token."""

    def _prepare(self, entry: Request) -> None:
        self._tokens = len(entry.generated)  # that it had before

    def _is_over(self, entry: Request) -> bool:
        return entry.trial is Trial.FIRST_TOKEN and len(entry.generated) > self._tokens
