"""What the commands say: results on standard output, all else on standard error."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self


class Console:
    """Prints around a progress bar, which is drawn on a terminal alone."""

    def __init__(self, quiet: bool, total: int, unit: str) -> None:
        from tqdm import tqdm

        self._tqdm: Any = tqdm
        hidden = True if quiet or total < 2 else None  # None: hidden unless stderr is a terminal
        self._bar: Any = tqdm(total=total, unit=unit, disable=hidden, file=sys.stderr)

    def result(self, text: str) -> None:
        """Written out at once: a reader of the pipe sees each result as it is made."""
        self._tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def error(self, message: object) -> None:
        self._tqdm.write(f"antiphon: {message}", file=sys.stderr)

    def advance(self) -> None:
        self._bar.update()

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
    """Shows a message once: the checks before the engine choose and warn as the engine does."""

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
    """Shows what the engine logs: what it is doing and what it chose, or warnings alone."""
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logger, handler = logging.getLogger("antiphon"), _Handler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
