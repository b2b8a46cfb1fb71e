"""How far reading runs ahead of the workers, for the recordings of one call."""

import math
import threading
from collections.abc import Callable

from antiphon.inputs.calls.transcription import Progress

ROUNDING = 1e-6  # windows, in sums of lengths


class ReadAhead:
    """Counts the windows of recordings that were begun and are not done.

    The caller's thread begins recordings while there is room; the event loop reports what is done.
    """

    def __init__(self, most: int, window_seconds: float) -> None:
        """`most`: windows that may be open before another recording is begun. A single recording
        may have more."""
        self.most, self.open = most, 0
        self._window_seconds = window_seconds
        self._lock = threading.Lock()
        self._on_room: Callable[[], None] = lambda: None

    @property
    def has_room(self) -> bool:
        return self.open < self.most

    def call_on_room(self, function: Callable[[], None]) -> None:
        """`function` is called whenever there is room again; in any thread."""
        self._on_room = function

    def begin(self, seconds: float) -> "Begun":
        """One more recording. `seconds`: an estimate of its length, 0 where nothing is known."""
        return Begun(self, seconds)

    def windows(self, seconds: float) -> int:
        """Of a recording of this length, at least one."""
        return max(1, math.ceil(seconds / self._window_seconds - ROUNDING))

    def change(self, count: int) -> None:
        with self._lock:
            had_room = self.has_room
            self.open += count
        if self.has_room and not had_room:
            self._on_room()


class Begun:
    """A recording that was begun: its open windows, at least one until its end."""

    def __init__(self, ahead: ReadAhead, seconds: float) -> None:
        self._ahead, self._open = ahead, 0
        self._set(ahead.windows(seconds))

    def also(self, progress: Progress) -> Progress:
        """`progress` for `AsyncEngine.transcribe`, which keeps the count of windows too."""

        def update(done: float, in_all: float) -> None:
            self._set(self._ahead.windows(in_all - done))
            progress(done, in_all)

        return update

    def end(self) -> None:
        self._set(0)

    def _set(self, count: int) -> None:
        change, self._open = count - self._open, count
        self._ahead.change(change)
