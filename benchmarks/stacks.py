"""Where the threads of this process stand, by samples: what a profile of kernels does not show."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PAUSE = 0.005  # seconds between samples
DEPTH = 4  # calls of a stack that tell places apart
SHOWN = 6  # places of a thread


class Stacks:
    """`places`: by a thread's name without its number, how often it stood where."""

    def __init__(self) -> None:
        self.places: dict[str, Counter[str]] = {}

    def sample(self) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != threading.get_ident():
                name = names.get(ident, "unknown").rstrip("-_0123456789")
                self.places.setdefault(name, Counter())[_place(frame)] += 1

    def __str__(self) -> str:
        lines = []
        for name, places in self.places.items():
            lines.append(f"{name}: {places.total()} samples")
            lines += [f"  {count:6} {place}" for place, count in places.most_common(SHOWN)]
        return "\n".join(lines)


@contextmanager
def sampled() -> Iterator[Stacks]:
    """Inside, all threads but the one that samples are looked at every `PAUSE` seconds."""
    stacks, ended = Stacks(), threading.Event()

    def watch() -> None:
        while not ended.wait(PAUSE):
            stacks.sample()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield stacks
    finally:
        ended.set()
        watcher.join()


def _place(innermost: FrameType) -> str:
    names, frame = [], innermost
    for _ in range(DEPTH):
        code = frame.f_code
        names.append(f"{Path(code.co_filename).stem}.{code.co_name}")
        if frame.f_back is None:
            break
        frame = frame.f_back
    return " < ".join(names)
