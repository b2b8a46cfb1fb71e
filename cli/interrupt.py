"""Ctrl-C and SIGTERM end the command within two seconds, whatever it is doing (a batch that uploads
its results takes longer).

The first signal unwinds the main thread (open files are closed, temporary ones removed). A second
thread, woken by the interpreter's signal handler, ends the process if that takes too long: the main
thread may be inside a C library that does not return. Either way the process ends by `os._exit`, so
no thread or atexit hook of a library can hold it. A second signal ends it at once.

Imports only the standard library: handlers must be installed before heavy imports.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

UNWIND_SECONDS = 1.0  # as a rule: for the main thread to unwind, from the first signal
ABANDON_SECONDS = 0.5  # for killing the processes of Ray and of the engine


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread by the first signal."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class _State:
    """The first signal, and what to do about it. A process has one set of signal handlers."""

    signum: int | None = None
    advice: Callable[[], str] | None = None
    unwind_seconds = UNWIND_SECONDS


def advise(advice: Callable[[], str] | None, unwind_seconds: float = UNWIND_SECONDS) -> None:
    """`advice` returns the line that an interrupted user reads. `unwind_seconds`: for the main
    thread to save what it has."""
    _State.advice, _State.unwind_seconds = advice, unwind_seconds


def install() -> None:
    """Handles SIGINT and SIGTERM, unless the parent lets this process ignore them (`nohup`,
    background jobs of a script). Call it once, in the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="antiphon-signals", daemon=True).start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _handle)
    atexit.register(_ignore)  # registered first, so it runs last


def _ignore() -> None:
    """The work is done and the exit code stands. While the interpreter ends it would restore the
    default handlers, and a late signal would kill the process."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def _handle(signum: int, _: FrameType | None) -> None:
    if _State.signum is not None:
        finish(_State.signum)
    _announce(signum)
    raise Interrupted(signum)


def _watch(reading: int) -> None:
    """Ends the process if the main thread has not, UNWIND_SECONDS after the first signal."""
    while (signum := os.read(reading, 1)[0]) not in (signal.SIGINT, signal.SIGTERM):
        pass
    time.sleep(_State.unwind_seconds)
    if _State.signum is None:  # the main thread has not returned to Python since
        _announce(signum)
    finish(signum)


def _announce(signum: int) -> None:
    """Prints one line. What libraries print after it is only about the interruption: silenced."""
    _State.signum = signum
    name = "interrupted" if signum == signal.SIGINT else "terminated"
    # A terminal has echoed ^C, or shows a progress bar.
    start_of_line = "\n" if os.isatty(2) else ""
    os.write(2, f"{start_of_line}antiphon: {name}\n".encode())
    if _State.advice is not None:
        os.write(2, f"antiphon: {_State.advice()}\n".encode())
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)


def finish_if_interrupted() -> None:
    """Does not return if a signal has arrived."""
    if _State.signum is not None:
        finish(_State.signum)


def finish(signum: int) -> NoReturn:
    """Ends this process now, and all that it started, with the shell's exit code for `signum`."""
    abandoning = threading.Thread(target=_abandon, daemon=True)
    abandoning.start()
    abandoning.join(ABANDON_SECONDS)
    os._exit(128 + signum)


def _abandon() -> None:
    """Kills Ray and the worker processes, if the module that starts them was imported."""
    session = sys.modules.get("antiphon.actors.session")
    abandon = getattr(session, "abandon", None)  # the module may be half imported
    if abandon is not None:
        abandon()
