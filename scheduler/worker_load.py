"""A worker's load, as those see it that send to it: what it reported last, with what
they have sent to it and seen end since.

Between two reports the estimate misses what others send, and what was on its way when a
report was made.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.sketch import fingerprints

UNKNOWN_EPOCH = -1  # of workers of which no supervisor told yet
LOAD = "tokens"  # the entry of a report that tells its load

Role = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class WorkerState:
    """A worker as its last report and the supervisor say.

    `alive`: it takes messages; one that is not is being restarted. `draining`: it gets
    no new requests. `load`: its counters, of which these are read here: "tokens", the
    encoder tokens of its open requests or of its queue; of a decoder "open", the
    sequences of its open requests, and "capacity", how many of them can run; and
    "heartbeats", whose number tells a new report from an old one. `held`: a sketch of
    the content keys that it holds. `last_load`: of its last life that died.
    """

    name: str
    role: Role
    epoch: int = 0
    alive: bool = True
    draining: bool = False
    load: Mapping[str, float] = field(default_factory=dict)
    held: bytes = b""
    last_load: Mapping[str, float] = field(default_factory=dict)

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation(self.name, self.epoch)


class WorkerLoad:
    """Loads are in tokens."""

    def __init__(self, state: WorkerState) -> None:
        self.state = state
        self._tokens = self._requests = 0  # sent, without those that ended, since the report
        self.held = fingerprints(state.held)

    def update(self, state: WorkerState) -> None:
        if state.load != self.state.load:  # its count of heartbeats differs at least
            self._tokens = self._requests = 0
        if state.held != self.state.held:
            self.held = fingerprints(state.held)
        self.state = state

    def add(self, num_tokens: int) -> None:
        """A request is sent to it."""
        self._tokens += num_tokens
        self._requests += 1

    def remove(self, num_tokens: int) -> None:
        """A request that was sent to it has ended."""
        self._tokens -= num_tokens
        self._requests -= 1

    @property
    def has_reported(self) -> bool:
        return LOAD in self.state.load

    @property
    def load(self) -> float:
        return max(0.0, self.state.load.get(LOAD, 0.0) + self._tokens)

    @property
    def capacity(self) -> float:
        return self.state.load.get("capacity", math.inf)

    @property
    def queue(self) -> float:
        """How many requests would wait for others to end if one more came."""
        open_requests = self.state.load.get("open", 0.0) + self._requests
        return max(0.0, open_requests + 1 - self.capacity)

    @property
    def takes_requests(self) -> bool:
        return self.state.alive and not self.state.draining
