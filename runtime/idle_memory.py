"""What malloc keeps of a large batch's memory goes back to the system when a worker rests.

glibc keeps freed memory for its next owner: an encoder on a CPU stays as large as its largest batch
made it, although nothing uses that memory. It would be as large again after the next such batch, so
a busy worker keeps it.
"""

import ctypes
import sys
import time
from collections.abc import Callable

REST_SECONDS = 5.0  # without work


def return_free_memory() -> None:
    """Gives what malloc holds for nobody back to the system. Takes up to a tenth of a second,
    without the interpreter's lock. Does nothing where the C library is another than glibc."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class IdleMemory:
    """Calls `give_back` once in each rest of `REST_SECONDS`. `clock`: seconds, never set back."""

    def __init__(
        self,
        give_back: Callable[[], None] = return_free_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._give_back, self._clock = give_back, clock
        self._rests_since: float | None = None
        self._worked = True

    def note(self, is_idle: bool) -> None:
        """What the worker does now; it says so again and again."""
        if not is_idle:
            self._rests_since, self._worked = None, True
        elif self._rests_since is None:
            self._rests_since = self._clock()
        elif self._worked and self._clock() - self._rests_since >= REST_SECONDS:
            self._worked = False
            self._give_back()
