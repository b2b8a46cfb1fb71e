"""SIGTERM and Ctrl-C end a server by letting its open requests end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def first_signal(stop: Callable[[], object]) -> Iterator[None]:
    """Calls `stop` at the first signal; a second one does what it did before. Signals that this
    process ignores (`nohup`) stay ignored. In another thread than the main one, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def handle(signum: int, frame: FrameType | None) -> None:
        restore()
        stop()

    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, handle)
    try:
        yield
    finally:
        restore()
