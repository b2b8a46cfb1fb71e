"""The messages about members: the supervisor has no others, and needs no torch for them."""

import msgspec

from antiphon.actors.address import Address
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.worker_load import WorkerState

# ---------------------------------------------------------------------- to every worker


class Attach(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A frontend says where it receives, before its first request."""

    frontend: str
    address: Address


class Detach(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A frontend is gone: nothing is sent to it any more, and its inputs are dropped."""

    frontend: str


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A worker as the supervisor knows it. `load`, `held`: as its last heartbeat said. `address` is
    None for a worker of this process. `gone`: its last epoch whose process is known to be gone; one
    that is not alive any more may still run."""

    name: str
    role: str  # "encoder", "decoder"; a colocated process has one member of each
    epoch: int
    address: Address | None
    alive: bool = True
    load: dict[str, float] = {}
    held: bytes = b""
    draining: bool = False  # it ends soon, and takes no new requests
    ended: str = ""  # why its last incarnation that died did so
    last_load: dict[str, float] = {}  # what that one's last heartbeat said
    gone: int = 0

    @property
    def worker(self) -> WorkerState:
        """As routers and decoders see it."""
        return WorkerState(
            self.name,
            self.role,  # type: ignore[arg-type]
            self.epoch,
            self.alive,
            self.draining,
            self.load,
            self.held,
            self.last_load,
        )


class Members(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All members of the engine, whenever one of them has changed."""

    members: list[Member]


# ---------------------------------------------------------------------- to the supervisor


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Of a worker's process. `load`: its counters, and the seconds for which its slowest loop has
    stood still. `held`: a compact sketch of the content keys it holds."""

    sender: Incarnation
    load: dict[str, float]
    held: bytes = b""
