"""The heartbeats of workers and frontends: signs of life for the supervisor, twice a second, and at
once where a worker has news that must not be lost with it.

They come from a thread of their own, because one forward on a CPU may take longer than a worker may
be silent. It tells how long the slowest loop has stood still; silence means that the whole process
is stopped, gone, or cut off.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from antiphon.actors.address import Address, Host
from antiphon.actors.channel import PeerGone, Sender
from antiphon.actors.frames import MemberEncoder
from antiphon.actors.loop import Loop
from antiphon.actors.member_messages import Heartbeat
from antiphon.actors.worker import Worker
from antiphon.scheduler.request import Incarnation

Report = Callable[[], tuple[dict[str, float], bytes]]

if TYPE_CHECKING:
    from types import FrameType

    from antiphon.actors.base_actor import WorkerActor

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.5
# Files that compile kernels for shapes not seen before: a loop in there is slow, but goes on.
# Of torch.compile only those that compile: others of its files are on the stack of what it made.
COMPILERS = (
    "/triton/compiler/",
    "/triton/backends/",
    "/flashinfer/jit/",
    "/cpp_extension.py",
    "/torch/_dynamo/convert_frame.py",
    "/torch/_inductor/compile_fx.py",
    "/torch/_inductor/async_compile.py",
)


class Pulse(Loop):
    """`sender`: a worker's incarnation, or a frontend's name. `supervisor`: where the heartbeats
    go. `report`: the load, and a sketch of the content that is held. `news`: asks for a heartbeat
    at once."""

    def __init__(
        self,
        sender: Incarnation,
        supervisor: Address,
        report: Report,
        news: threading.Event | None = None,
    ) -> None:
        super().__init__()
        self._incarnation, self._report = sender, report
        self._news = news or threading.Event()
        encoder = MemberEncoder(supervisor.token)
        self._sender = Sender(supervisor, Host.here().node, encoder=encoder)

    def loop(self) -> None:
        heartbeats = 0
        while not self.closing.is_set():
            self._news.wait(HEARTBEAT_SECONDS)
            self._news.clear()
            if self.closing.is_set():
                break
            heartbeats += 1
            load, held = self._report()
            load["heartbeats"] = heartbeats
            try:
                self._sender.send(Heartbeat(self._incarnation, load, held))
            except PeerGone:  # this process ends with it
                logger.exception("the supervisor takes no heartbeats")
        self._sender.close()

    def close(self, timeout: float = 5.0) -> None:
        self.closing.set()
        self._news.set()
        super().close(timeout)


class WorkerReport:
    """What the heartbeats of a worker's process say."""

    def __init__(self, actor: "WorkerActor") -> None:
        self._actor, self._standstill = actor, Standstill(actor.loops)

    def __call__(self) -> tuple[dict[str, float], bytes]:
        load = {**self._actor.load_report(), "standstill": self._standstill.look()}
        return load, self._actor.held()


class Standstill:
    """For how long the slowest of a process's workers has not come round.

    Looked at with every heartbeat. Where that comes late, the whole process stood still (stopped,
    or without a processor), and its loops can't be blamed for that time: it does not count.
    """

    def __init__(self, loops: Iterable[Loop]) -> None:
        self._loops = loops
        self._looked_at, self._seconds = time.monotonic(), 0.0

    def look(self) -> float:
        """Seconds; 0 while it compiles."""
        now = time.monotonic()
        counted = self._seconds + min(now - self._looked_at, HEARTBEAT_SECONDS)
        self._looked_at = now
        self._seconds = min(counted, now - self._turned_at(now))
        return self._seconds

    def _turned_at(self, now: float) -> float:
        workers = [loop for loop in self._loops if isinstance(loop, Worker) and loop.alive]
        slowest = min(workers, key=lambda worker: worker.turned_at, default=None)
        if slowest is None or _compiles(sys._current_frames().get(slowest.thread_id)):
            return now
        return slowest.turned_at


def _compiles(frame: "FrameType | None") -> bool:
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in COMPILERS):
            return True
        frame = frame.f_back
    return False
