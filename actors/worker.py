"""What encoder and decoder workers share: a loop in a thread of its own, fed through a queue of commands.

These are plain objects; `actors/hosts.py` has the Ray actors that hold one or both of them.
"""

import os
import queue
from abc import abstractmethod
from collections.abc import Callable

import torch

from antiphon.actors.loop import Loop

IDLE_SECONDS = 0.02  # how long an idle loop sleeps before it looks at its deadlines again
POLL_SECONDS = 5e-5  # and one that waits for the device


class Worker(Loop):
    """Commands go into `inbox` from any thread; the loop carries them out between two turns, on a CUDA stream of its own.

    What an error ends: that of a step, of an encoder batch or of hidden states that arrive ends the
    requests that they were for. Then the device is probed. If it can't go on, the error leaves the
    loop, and so does any other: the engine sees a worker that died, where one that lived on would
    fail fast, look idle and draw all traffic.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def loop(self) -> None:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        if stream is not None:  # behind what was loaded and captured on the way here
            stream.wait_stream(torch.cuda.default_stream(self.device))
        with torch.cuda.stream(stream):
            while not self.closing.is_set():
                self._drain()
                self.turn()

    def _drain(self) -> None:
        """Carries out every command that is there; sleeps for the first if there is time."""
        try:
            command = (
                self.inbox.get(timeout=patience)
                if (patience := self.patience)
                else self.inbox.get_nowait()
            )
            while True:
                command()
                command = self.inbox.get_nowait()
        except queue.Empty:
            return

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def patience(self) -> float:
        """Seconds that there is nothing to do for unless a command comes: 0, POLL_SECONDS or IDLE_SECONDS."""

    @abstractmethod
    def turn(self) -> None:
        """One round of work; short when there is none."""


def set_threads(count: int | None) -> None:
    """Torch's threads in this process; None: all cores."""
    torch.set_num_threads(count or os.cpu_count() or 1)
