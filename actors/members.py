"""What the supervisor knows of a worker, and what it can do about one."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from antiphon.scheduler.request import Incarnation


class State(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # gets no new requests
    ENDING = "ending"  # its process is being killed
    WAITING = "waiting"  # for its restart


RUNNING = frozenset({State.READY, State.DRAINING})
LIVE = RUNNING | {State.STARTING}  # has a process, as far as is known


@dataclass(frozen=True)
class Start:
    """Start this incarnation of a worker."""

    incarnation: Incarnation
    role: str


@dataclass(frozen=True)
class Kill:
    """End this incarnation's process, whatever it does, and report `gone`."""

    incarnation: Incarnation
    reason: str


@dataclass(frozen=True)
class Announce:
    """Tell frontends and workers who the members are."""


@dataclass(frozen=True)
class Unusable:
    """The engine can't go on: end it, and tell every frontend why."""

    reason: str


Action = Start | Kill | Announce | Unusable


@dataclass(frozen=True)
class Limits:
    """`heartbeat_timeout`: seconds without a sign of life until a worker counts as dead.
    `hang_timeout`: seconds until one whose loop stands still does. `startup_timeout`: seconds for a
    start. `max_restarts`: of each worker within ten minutes, and in a row without getting ready."""

    heartbeat_timeout: float = 2.0
    hang_timeout: float = math.inf
    startup_timeout: float = 300.0
    max_restarts: int = 5


@dataclass
class Member:
    """One worker. `address`: where it takes messages, once it is ready. `load`, `held`: from its
    last heartbeat."""

    name: str
    role: str
    epoch: int = 0
    state: State = State.WAITING
    address: Any = None
    load: Mapping[str, float] = field(default_factory=dict)
    held: bytes = b""
    since: float = 0.0  # of its present state
    heard_at: float = 0.0
    busy_at: float = 0.0  # when it last had an open request
    restart_at: float = 0.0
    ended: str = ""  # why its last incarnation that died did so
    last_load: Mapping[str, float] = field(default_factory=dict)  # that one's
    removing: bool = False  # it is not started again
    deaths: deque[float] = field(default_factory=deque)  # within WINDOW_SECONDS
    starts: int = 0  # since it was last ready

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation(self.name, self.epoch)

    def enter(self, state: State, now: float) -> None:
        self.state, self.since = state, now

    def forgive(self, pause: float, now: float) -> None:
        """Moves its times by a pause in which nobody could hear of it."""
        self.heard_at = min(self.heard_at + pause, now)
        self.busy_at = min(self.busy_at + pause, now)
        self.since = min(self.since + pause, now)
