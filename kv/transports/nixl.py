"""To a decoder in another process, by NIXL (https://github.com/ai-dynamo/nixl): the encoder writes
rows of the decoder's arena through UCX, over RDMA where both machines have it.

    decoder                          encoder
    registers its arena, asks: rows  -> learns of the arena, the first time
                                        encodes; copies the states into registered memory behind
                                        that, on the same stream; then posts the write
    takes the rows as they are       <- once they are written: keys and tickets, a few bytes

A write is posted by the host once the states are computed, and is over some time later: unlike
one of `mapped.py`, it is not ordered by the device's stream.

A write that fails or takes too long is given up, and nothing is posted any more. NIXL cannot stop
a write: until it is over, its rows must not become those of other states (`landing`). Some of one
that has failed may even then be buffered at the decoder.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from antiphon.config.errors import describe
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.interface import Sent, Transport
from antiphon.kv.transports.mapped import Announce, ArenaExport
from antiphon.kv.transports.nixl_agent import NixlError, NixlPeers, NixlWrites

WRITE_SECONDS = 30.0  # a write that takes longer is given up
BUFFERED_SECONDS = 1.0  # so long after the end of one that was given up, some of it may still land
ENDED = "its decoder has ended"
Failed = Callable[["Nixl", HiddenStates, str], None]  # states that were not written, and why


@dataclass(eq=False)  # tensors do not compare as wholes
class _Staged:
    """Registered memory [rows, width] that a write reads."""

    memory: torch.Tensor
    registered: Any


@dataclass(eq=False)
class _Write:
    """Of one batch, to all ranks. `staged`: None where that failed, for `problem`. `over_at`: when
    one that was given up was seen to be over."""

    states: HiddenStates
    places: tuple[Place, ...]
    under_way: NixlWrites
    staged: _Staged | None = None
    problem: str = ""
    posted_at: float = 0.0
    over_at: float = math.inf

    @property
    def tickets(self) -> tuple[int, ...]:
        return tuple(place.ticket for place in self.places)

    def has_landed(self) -> bool:
        """Whether nothing of it can reach the decoder any more. NIXL says so only if asked."""
        if "PROC" not in self.under_way.states():
            self.over_at = min(self.over_at, time.monotonic())
        return time.monotonic() - self.over_at >= BUFFERED_SECONDS


class Nixl(Transport):
    """To all ranks of one decoder. `announce` tells it which states are written; `failed` takes
    those that could not be."""

    kind = "NIXL"

    def __init__(
        self, export: ArenaExport, device: torch.device, announce: Announce, failed: Failed
    ) -> None:
        """Raises NixlError."""
        self.name, self._device = export.name, device
        self._announce, self._failed = announce, failed
        self._peers, self._width = NixlPeers(export.far), export.width
        self._dtype: torch.dtype = getattr(torch, export.dtype)
        self._queued: deque[_Write] = deque()  # oldest first
        self._posted: list[_Write] = []
        self._given_up: list[_Write] = []  # that may still land
        self._free: list[_Staged] = []
        self._problem = ""  # why nothing is posted any more

    # ------------------------------------------------------------------ one batch

    def queued(self, states: HiddenStates, places: Sequence[Place] = ()) -> None:
        write = _Write(states, tuple(places), self._peers.writes())
        try:
            write.staged = staged = self._stage(states.packed)
        except Exception as error:  # no memory, or none that may be registered
            write.problem = f"no memory that NIXL reads: {describe(error)}"
        else:
            packed = staged.memory[: len(states.packed)]
            write.states = HiddenStates(states.keys, states.lengths, packed)
        self._queued.append(write)

    def _stage(self, packed: torch.Tensor) -> _Staged:
        fits = [one for one in self._free if len(one.memory) >= len(packed)]
        if fits:
            staged = min(fits, key=lambda one: len(one.memory))
            self._free.remove(staged)
        else:
            rows = 1 << (len(packed) - 1).bit_length()
            memory = torch.empty(rows, self._width, dtype=self._dtype, device=self._device)
            staged = _Staged(memory, self._peers.register(memory))
        staged.memory[: len(packed)].copy_(packed)
        return staged

    def computed(self) -> Sent:
        write = self._queued.popleft()
        self._posted.append(write)
        if write.staged is None or self._problem:
            self._give_up(write, write.problem or self._problem)
            return None
        rows = np.concatenate([place.rows for place in write.places])
        try:
            self._peers.write(write.staged.memory, rows, write.under_way)
        except NixlError as error:
            self._give_up(write, describe(error))
            return None
        write.posted_at = time.monotonic()
        return partial(self._is_sent, write)

    def _is_sent(self, write: _Write) -> bool:
        """Whether it is over, written or given up; tells of it then."""
        if write not in self._posted:  # given up by `abandon`
            return True
        states = write.under_way.states()
        if "ERR" in states:
            self._give_up(write, "the write failed")
        elif "PROC" not in states:
            self._posted.remove(write)
            write.under_way.release()
            if write.staged is not None:
                self._free.append(write.staged)
            self._announce(write.states.keys, write.tickets)
        elif time.monotonic() - write.posted_at > WRITE_SECONDS:
            self._give_up(write, f"the write took longer than {WRITE_SECONDS:g} s")
        else:
            return False
        return True

    # ------------------------------------------------------------------ what is given up

    def _give_up(self, write: _Write, problem: str) -> None:
        """Its states go another way, and so do all that follow."""
        self._problem = self._problem or problem
        self._posted.remove(write)
        if write.under_way.states():  # it was posted, to some ranks at least
            self._given_up.append(write)
        self._failed(self, write.states, problem)

    def abandon(self) -> None:
        """Its decoder has ended: nobody waits for the writes to it."""
        self._problem = self._problem or ENDED
        self._given_up += self._posted
        self._posted.clear()

    def check(self) -> bool:
        """Whether fewer of the writes that were given up may land than at the last call."""
        landed = [write for write in self._given_up if write.has_landed()]
        for write in landed:
            self._given_up.remove(write)
            write.under_way.release()
        if not self.is_open:
            self._peers.disconnect()
        return bool(landed)

    @property
    def landing(self) -> tuple[str, ...]:
        """The keys of all writes that may still reach the decoder."""
        writes = [*self._posted, *self._given_up]
        return tuple(key for write in writes for key in write.states.keys)

    @property
    def is_open(self) -> bool:
        """While it has writes to make, to end or to wait for, or may get more."""
        return not self._problem or bool(self._queued or self._posted or self._given_up)

    def close(self) -> None:
        """The loop of the encoder has ended."""
        self.abandon()
