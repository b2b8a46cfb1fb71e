"""An encoder batch of which each rank of a decoder has encoded some inputs, on its own device.

The encoder beside each rank of a colocated replica keeps its share. All ranks exchange their shares
when the leader's decoder says so, among the decoder's other commands: so the encoders exchange
nothing themselves, and collective calls have one order on all ranks.
"""

import queue
from collections.abc import Callable
from dataclasses import dataclass

import torch

from antiphon.runtime.ranks import RankError


@dataclass(frozen=True)
class OwnShare:
    """One rank's share of batch number `batch` (from 0): `packed` [own tokens, hidden].

    `ready`: recorded behind its computation, where that may not be done yet.
    """

    batch: int
    packed: torch.Tensor
    ready: torch.cuda.Event | None = None


@dataclass(frozen=True)
class SharedBatch:
    """What the leader's encoder tells the leader's decoder of a batch.

    `keys`, `lengths`: of its inputs, in order; an empty key where the decoder wants nothing.
    `tokens`: how many each rank of the encoder has, in that order. `own`: the leader's.
    `completed`: takes all of it, [sum of lengths, hidden], in the decoder's thread; None unless
    others than the decoder want some of it.
    """

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    own: OwnShare
    completed: Callable[[torch.Tensor], None] | None = None

    @property
    def computed(self) -> bool:
        """Of the leader's share, which is about as large as any."""
        return self.own.ready is None or self.own.ready.query()


class Shelf:
    """Where a rank that is not the leader keeps its shares, from its encoder's thread to its
    decoder's. Batches come and go in one order."""

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds that the decoder waits for a share."""
        self._timeout = timeout
        self._shares: queue.SimpleQueue[OwnShare] = queue.SimpleQueue()
        self._next = 0

    def put(self, packed: torch.Tensor, ready: torch.cuda.Event | None) -> None:
        """The share of the next batch."""
        self._shares.put(OwnShare(self._next, packed, ready))
        self._next += 1

    def take(self, batch: int) -> OwnShare:
        """The share of `batch`, once this rank's encoder has queued it on the device. Raises
        RankError if it does not come, or another one does."""
        try:
            share = self._shares.get(timeout=self._timeout)
        except queue.Empty:
            raise RankError(
                f"the encoder of this rank did not come to batch {batch} within {self._timeout:g} s"
            ) from None
        if share.batch != batch:
            raise RankError(f"batch {share.batch} came where batch {batch} was due")
        return share
