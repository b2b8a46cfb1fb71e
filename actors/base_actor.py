"""What the Ray actors share: they claim a part of their machine, and watch and close their threads.

Ray runs an actor's methods one after the other. Each of them only puts a message into a worker's
inbox, so no call waits for a worker's loop.
"""

import gc
import time
from typing import Any, Generic, TypeVar

import torch

from antiphon.actors.loop import Loop
from antiphon.actors.worker import set_threads
from antiphon.config.options import EngineConfig

Message = TypeVar("Message", contravariant=True)


class RemotePeer(Generic[Message]):
    """A worker in another process, behind its Ray actor."""

    in_this_process = False

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def send(self, message: Message) -> None:
        """Ray keeps large messages in its object store and passes a reference."""
        self._actor.receive.remote(message)


class WorkerActor:
    """The threads of one process: its workers, and what receives their messages."""

    def __init__(self) -> None:
        self.loops: list[Loop] = []

    def watch(self) -> None:
        """Returns when the actor was closed; raises RuntimeError with the error that ended a loop.

        The engine always waits for this call, in a thread beside the one that takes messages.
        """
        while all(loop.alive for loop in self.loops) and not self.loops[0].closing.wait(0.2):
            pass
        for loop in self.loops:
            if loop.failure is not None:
                raise RuntimeError(
                    f"{type(loop).__name__} ended: {type(loop.failure).__name__}: {loop.failure}"
                )

    def close(self, timeout: float = 5.0) -> None:
        """Waits up to `timeout` seconds for the threads to finish what they are doing."""
        for loop in self.loops:
            loop.closing.set()
        deadline = time.monotonic() + timeout
        for loop in self.loops:
            loop.close(max(0.0, deadline - time.monotonic()))


def claim_resources(config: EngineConfig, gpu_share: float) -> None:
    """Limits this process to `num_threads` threads and to its share of the GPU's memory.

    `gpu_share`: a fraction of one GPU; 0.0 without one, 1.0 for all of it.
    """
    set_threads(config.workers.num_threads)
    if 0.0 < gpu_share < 1.0:
        torch.cuda.set_per_process_memory_fraction(gpu_share)


def freeze_heap() -> None:
    """Exempts all objects that exist now from garbage collection. Called once a process has loaded.

    A full collection walks the million objects of torch, Ray and the model: it would hold every
    request of the process up for 0.15 to 0.3 s.
    """
    gc.collect()
    gc.freeze()
