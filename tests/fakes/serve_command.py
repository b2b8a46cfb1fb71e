"""`antiphon serve` as a process."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

READY = " ready: "
LIMIT_SECONDS = 300.0  # then it is killed


@contextmanager
def served(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """The process once it is ready, and its log so far: the last line ends with its address."""
    command = [sys.executable, "-m", "antiphon", "serve", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(LIMIT_SECONDS, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if f"{READY}http" in line:
                    break
            yield process, lines
        finally:
            watchdog.cancel()
            process.kill()
