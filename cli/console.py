"""What commands print: results on standard output, all else on standard error."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from antiphon.config.logs import logs_to

LONG = 60.0  # seconds of sound above which a single recording has a progress bar
SECONDS_OF_SOUND = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of sound [{elapsed}<{remaining}]"


class Console:
    """Prints around a progress bar, which is drawn only on a terminal: of inputs if there are
    several, of seconds of sound for a single long recording."""

    def __init__(self, quiet: bool, total: int, unit: str) -> None:
        from tqdm import tqdm

        self._tqdm: Any = tqdm
        self._hidden = True if quiet else None  # None: hidden unless stderr is a terminal
        self._several = total > 1
        self._bar: Any = tqdm(
            total=total, unit=unit, disable=self._hidden if self._several else True, file=sys.stderr
        )

    def result(self, text: str) -> None:
        """Prints and flushes: the reader of a pipe sees each result as it is made."""
        self._tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def error(self, message: object) -> None:
        self._tqdm.write(f"antiphon: {message}", file=sys.stderr)

    def advance(self) -> None:
        """One more input is done."""
        if self._several:
            self._bar.update()

    def progress(self, done: float, in_all: float) -> None:
        """Seconds of sound done and in all, of the recordings read so far. From any thread."""
        if self._several:
            self._bar.set_postfix_str(f"{done:.0f} s of sound")
            return
        if self._bar.disable and in_all >= LONG:
            self._bar = self._tqdm(
                total=in_all, bar_format=SECONDS_OF_SOUND, disable=self._hidden, file=sys.stderr
            )
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


class _Handler(logging.Handler):
    """Shows each message once: the engine logs again what the checks before it have logged."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        message = self.format(record)
        if message not in self._shown:
            self._shown.add(message)
            tqdm.write(message, file=sys.stderr)


@contextmanager
def logs_on_stderr(quiet: bool) -> Iterator[None]:
    """Shows what the engine logs on standard error; only warnings if `quiet`."""
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    with logs_to(handler, quiet):
        yield
