"""How long a rank waits for the others, and what it raises then.

On a GPU the host queues work and does not wait. A rank that never comes leaves the
others' kernels waiting on their devices for ever, and nobody but the host can end that.
What torch offers is not enough: the watchdog of its NCCL groups sees collectives that
are launched one by one, and none that a CUDA graph replays; kernels over symmetric
memory it does not know at all; and it ends the process by a signal, a minute after the
timeout. So the leader looks at the event behind each step until a deadline, and raises.
The error leaves its loop, and the supervisor ends all processes of the replica, which
frees the devices.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from antiphon.config.errors import AntiphonError


class RankError(AntiphonError):
    """A rank of a replica cannot go on, or not as the others do. Ends the replica."""


@contextmanager
def waiting_for(whom: str) -> Iterator[None]:
    """What torch raises of `whom`, as RankError."""
    try:
        yield
    except RankError:
        raise
    except RuntimeError as error:  # DistError and its kind, and what gloo throws
        reason = str(error).strip().splitlines()[0]
        raise RankError(
            f"waited in vain for {whom}: {reason} (collective_timeout says for how long)"
        ) from error


class Event(Protocol):
    """As `torch.cuda.Event`."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


class WaitLimit:
    """`seconds` until waiting is in vain. They may change: loading takes longer than a step."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds

    def wait(self, done: Event, what: str) -> None:
        """Returns once the device is done with `what`. Raises RankError if that takes too long."""
        if self.seconds == math.inf:
            return done.synchronize()
        began = time.monotonic()
        while not done.query():
            self.check(began, what)
            time.sleep(0)  # lets other threads run

    def check(self, began: float, what: str) -> None:
        """Raises RankError if `what` is waited for too long, since `began` (`time.monotonic`)."""
        waited = time.monotonic() - began
        if waited > self.seconds:
            raise RankError(
                f"{what} is not done after {waited:.1f} s: a rank hangs or is gone "
                "(collective_timeout says how long to wait)"
            )
