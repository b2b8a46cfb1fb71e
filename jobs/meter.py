"""How far a job is, how fast, and how long it will take."""

import time
from collections import deque
from collections.abc import Callable

RECENT_SECONDS = 60.0  # the rate is that of the last minute


class Meter:
    """Counts from `done` lines of `total`, which earlier runs have finished."""

    def __init__(
        self, total: int, done: int, failed: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done, self.failed = total, done, failed
        self.at_start, self.audio_seconds = done, 0.0
        self._clock = clock
        self._began = clock()
        self._samples: deque[tuple[float, int, float]] = deque([(self._began, done, 0.0)])

    def add(self, audio_seconds: float = 0.0, failed: bool = False) -> None:
        self.done += 1
        self.failed += failed
        self.audio_seconds += audio_seconds

    @property
    def seconds(self) -> float:
        """Of this run."""
        return self._clock() - self._began

    def rates(self) -> tuple[float, float]:
        """Lines in a second, and seconds of audio in a second, of the last minute. Call
        it every few seconds."""
        now = self._clock()
        self._samples.append((now, self.done, self.audio_seconds))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RECENT_SECONDS:
            self._samples.popleft()
        then, done, audio = self._samples[0]
        elapsed = max(1e-9, now - then)
        return (self.done - done) / elapsed, (self.audio_seconds - audio) / elapsed

    def sentence(self) -> str:
        """'1,200 of 5,000 lines (24 %), 3 failed, 43.0x real time, 12.1 lines/s, 5 min left'."""
        lines, audio = self.rates()
        share = 100 * self.done / self.total if self.total else 100
        parts = [f"{self.done:,} of {self.total:,} lines ({share:.0f} %)", *self._remarks(audio)]
        parts.append(f"{lines:.1f} lines/s")
        if (left := self.total - self.done) > 0 and lines:
            parts.append(f"{in_words(left / lines)} left")
        return ", ".join(parts)

    def remarks(self) -> str:
        """The part of `sentence` that a bar does not show by itself."""
        return ", ".join(self._remarks(self.rates()[1]))

    def _remarks(self, audio_rate: float) -> list[str]:
        failed = [f"{self.failed:,} failed"] if self.failed else []
        return [*failed, f"{audio_rate:.1f}x real time"] if self.audio_seconds else failed


def in_words(seconds: float) -> str:
    """'45 s', '12 min', '3 h 05 min', '2 d 4 h'."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
