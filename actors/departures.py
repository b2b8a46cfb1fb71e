"""Jobs of an encoder whose states are computed and are still on their way."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from antiphon.actors.messages import EncodeJob
from antiphon.actors.worker import IDLE_SECONDS, POLL_SECONDS
from antiphon.kv.transports.interface import Transport

LATE = 0.1  # of the time that a batch has been on its way: so much later its end may be seen


@dataclass
class _Departed:
    """`waits`: whether each of its transports has brought it there. `since`: seconds."""

    jobs: list[EncodeJob]
    waits: list[Callable[[], bool]]
    since: float


class Departures:
    """Jobs whose batches are computed, until their states are with their decoders: those that were
    posted by NIXL are still on their way. `end` takes them then. `clock`: seconds, never set
    back."""

    def __init__(
        self,
        end: Callable[[list[EncodeJob]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end, self._clock = end, clock
        self._open: list[_Departed] = []  # oldest first

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def num_tokens(self) -> int:
        """Of all jobs that are on their way. From any thread."""
        return sum(job.num_tokens for departed in list(self._open) for job in departed.jobs)

    @property
    def poll_timeout(self) -> float:
        """For how long a loop without other work may wait before it calls `check`."""
        if not self._open:
            return IDLE_SECONDS
        passed = self._clock() - self._open[-1].since
        return min(max(POLL_SECONDS, LATE * passed), IDLE_SECONDS)

    def add(self, jobs: list[EncodeJob], transports: Sequence[Transport]) -> None:
        waits = [sent for transport in transports if (sent := transport.computed()) is not None]
        self._open.append(_Departed(jobs, waits, self._clock()))
        self.check()

    def check(self) -> None:
        """Ends the jobs whose states have come."""
        still = []
        for departed in self._open:
            departed.waits = [sent for sent in departed.waits if not sent()]
            if departed.waits:
                still.append(departed)
            else:
                self._end(departed.jobs)
        self._open = still
