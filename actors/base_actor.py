"""What the Ray actors share: they claim a part of their machine, receive, and watch their threads.

Messages come over a channel (`actors/channel.py`). Ray's calls load, connect, watch and close.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

from antiphon.actors.address import Address, Host
from antiphon.actors.channel import Receiver
from antiphon.actors.loop import Loop
from antiphon.actors.member_messages import Member
from antiphon.actors.messages import AnyPeer, Members, Message
from antiphon.actors.worker import set_threads
from antiphon.config.errors import describe
from antiphon.config.options import EngineConfig
from antiphon.runtime.garbage import freeze_heap

# Where the other ranks of a replica receive the commands of each half.
Followers = Sequence[Mapping[str, Address]]


class WorkerActor(ABC):
    """The threads of one process: its workers, and the receiver of their messages."""

    def __init__(self) -> None:
        self.loops: list[Loop] = []
        self._no_news = threading.Event()

    @abstractmethod
    def receive(self, message: Message) -> None:
        """Puts a message into the inbox of the worker that it is for. In any thread."""

    @abstractmethod
    def load_report(self) -> dict[str, float]:
        """What its heartbeats say of its load: "tokens" to encode or of open requests, and "open"
        out of "capacity" in the same unit. From any thread."""

    @property
    def news(self) -> threading.Event:
        """Set when a heartbeat should go out at once."""
        return self._no_news

    def held(self) -> bytes:
        """A sketch of the content keys that it holds. From any thread."""
        return b""

    def frontends(self) -> list[str]:
        """Those that have attached to it, by name. From any thread."""
        return []

    def stats(self) -> dict[str, int]:
        """The counters of its workers. From any thread."""
        return {}

    def watch(self) -> None:
        """Returns when the actor was closed; raises RuntimeError with the error that ended a loop.

        The engine always waits for this call, in a thread beside the one that takes messages.
        """
        while all(loop.alive for loop in self.loops) and not self.loops[0].closing.wait(0.2):
            pass
        for loop in self.loops:
            if loop.failure is not None:
                raise RuntimeError(f"{type(loop).__name__} ended: {describe(loop.failure)}")

    def close(self, timeout: float = 5.0) -> None:
        """Waits up to `timeout` seconds for the threads to finish what they are doing."""
        for loop in self.loops:
            loop.closing.set()
        deadline = time.monotonic() + timeout
        for loop in self.loops:
            loop.close(max(0.0, deadline - time.monotonic()))


class LeaderActor(WorkerActor):
    """One whose worker speaks with others: the only rank of its replica, or the first one."""

    def listen(self) -> Address:
        """Starts receiving. Messages wait until `connect` starts the workers."""
        freeze_heap()
        self._host = Host.here()
        receiver = Receiver(self._host, self.receive)
        receiver.start()
        self.loops.append(receiver)
        return receiver.address

    def connect(self, members: list[Member], followers: Followers = ()) -> None:
        """`members`: all workers of the engine. `followers`: see `Followers`."""
        self.receive(Members(members))
        self.start(self._host.node, {}, followers)

    @abstractmethod
    def start(self, node: str, frontends: Mapping[str, AnyPeer], followers: Followers = ()) -> None:
        """Starts the worker. `node`: of this process. `frontends`: those in this process, by
        name."""


def claim_resources(config: EngineConfig, gpu_share: float) -> None:
    """Limits this process to `num_threads` threads and to its share of the GPU's memory.

    `gpu_share`: a fraction of one GPU; 0.0 without one, 1.0 for all of it.
    """
    set_threads(config.workers.num_threads)
    if 0.0 < gpu_share < 1.0:
        torch.cuda.set_per_process_memory_fraction(gpu_share)
