"""The loop that encoder and decoder workers share.

These are plain objects; `actors/*_actor.py` has the Ray actors that hold one or both workers.
"""

import logging
import os
import queue
import time
from abc import abstractmethod
from typing import Generic, TypeVar

import torch

from antiphon.actors.loop import Loop
from antiphon.runtime.device import probe
from antiphon.runtime.idle_memory import IdleMemory

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.02  # poll timeout of an idle loop: how late it may notice a deadline
POLL_SECONDS = 5e-5  # poll timeout of a loop that waits for the device
# For an encoder in this process to begin, before it is asked for more. Beside a thread that is busy
# Python gives it a turn every 5 ms, and it needs one for each of the hundred kernels of a batch.
BEGIN_SECONDS = 1e-3

Message = TypeVar("Message")


class Worker(Loop, Generic[Message]):
    """Handles messages and computes, in turn, on a CUDA stream of its own.

    An error in a message, a step or an encoder batch ends only the requests concerned. The worker
    then probes its device. If the device is unusable, the error leaves the loop, as does any error
    outside those places, and the engine sees that the worker died. A worker that stayed alive would
    fail fast, look idle and draw all traffic.
    """

    in_this_process = True  # as a peer of another worker

    def __init__(self) -> None:
        super().__init__()
        self.turned_at = time.monotonic()  # when the loop last came round
        self._memory = IdleMemory()
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def send(self, message: Message) -> None:
        """Puts a message into the inbox. From any thread."""
        self.inbox.put(message)

    def loop(self) -> None:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        if stream is not None:  # wait for weights and graphs that the default stream still writes
            stream.wait_stream(torch.cuda.default_stream(self.device))
        with torch.cuda.stream(stream):
            while not self.closing.is_set():
                self.turned_at = time.monotonic()
                self._memory.note(is_idle=self._drain())
                self.run_once()

    def _drain(self) -> bool:
        """Handles every message in the inbox; waits up to `poll_timeout` for the first one. True
        if there was nothing to do when the loop came round, and none came."""
        timeout, is_idle = self.poll_timeout, True
        try:
            message = self.inbox.get(timeout=timeout) if timeout else self.inbox.get_nowait()
            is_idle = False
            while True:
                self._handle_guarded(message)
                message = self.inbox.get_nowait()
        except queue.Empty:
            return is_idle and timeout == IDLE_SECONDS

    def _handle_guarded(self, message: Message) -> None:
        try:
            self.handle(message)
        except Exception as error:  # unforeseen: it must not end the loop that serves everybody
            self._probe()
            logger.exception("%s could not be handled", type(message).__name__)
            self.refuse(message, error)

    def _probe(self) -> None:
        """Raises if the device is unusable after an error."""
        probe(self.device)

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def poll_timeout(self) -> float:
        """How many seconds the loop may wait for a message: 0, or one of the times above."""

    @abstractmethod
    def handle(self, message: Message) -> None:
        """Acts on one message. In the worker's thread."""

    @abstractmethod
    def refuse(self, message: Message, error: Exception) -> None:
        """Ends what depends on a message whose handling raised `error`."""

    @abstractmethod
    def run_once(self) -> None:
        """One round of work; returns soon if there is none."""


def set_threads(count: int | None) -> None:
    """Sets the number of torch's threads in this process; None: all cores."""
    torch.set_num_threads(count or os.cpu_count() or 1)
