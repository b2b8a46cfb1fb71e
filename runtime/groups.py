"""Ranks that compute one thing together: what they exchange, as an interface.

All ranks of a group make the same calls in the same order. On a GPU every call queues
work on the current stream and does not wait for it.
"""

from abc import ABC, abstractmethod

import torch

from antiphon.kernels.shared_rows import SharedRows


class Group(ABC):
    """`size` ranks, of which this process (or thread) is number `rank`."""

    rank: int
    size: int

    @abstractmethod
    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of every rank's `x`, the same bits on all of them. `x` may be overwritten."""

    def shared_rows(self, x: torch.Tensor) -> SharedRows | None:
        """What a kernel needs that sums `x` [tokens, hidden] over the ranks itself; None where
        `all_reduce` is to do it. Depends on shape and dtype alone: all ranks get the same."""
        return None

    @abstractmethod
    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank's `x` [...], which have one shape -> [size, ...]."""

    @abstractmethod
    def broadcast(self, x: torch.Tensor, source: int) -> None:
        """Overwrites `x` with that of rank `source`."""

    @abstractmethod
    def send(self, x: torch.Tensor, target: int) -> None:
        """To `receive` on rank `target`. Neither the host nor the current stream waits
        for that: two ranks may send to each other before either receives. `x` may be
        overwritten then."""

    @abstractmethod
    def receive(self, into: torch.Tensor, source: int) -> None:
        """Overwrites `into` with what rank `source` sends."""

    @abstractmethod
    def barrier(self) -> None:
        """Returns once every rank is here. The host waits."""

    @abstractmethod
    def close(self) -> None:
        """Ends it on this rank. Calls of other ranks that wait for this one then raise."""


class Alone(Group):
    """A group of one: nothing is exchanged."""

    rank, size = 0, 1

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return x[None]

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        pass

    def send(self, x: torch.Tensor, target: int) -> None:
        raise AssertionError("there is no other rank")

    def receive(self, into: torch.Tensor, source: int) -> None:
        raise AssertionError("there is no other rank")

    def barrier(self) -> None:
        pass

    def close(self) -> None:
        pass


class Apart(Group):
    """Ranks that share work but exchange nothing: each computes by itself."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("these ranks exchange nothing")

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("these ranks exchange nothing")

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        raise AssertionError("these ranks exchange nothing")

    def send(self, x: torch.Tensor, target: int) -> None:
        raise AssertionError("these ranks exchange nothing")

    def receive(self, into: torch.Tensor, source: int) -> None:
        raise AssertionError("these ranks exchange nothing")

    def barrier(self) -> None:
        """None is ever waited for."""

    def close(self) -> None:
        pass
