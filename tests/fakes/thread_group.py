"""Groups whose ranks are threads of this process: parallel layouts without processes."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import torch

from antiphon.config.parallel import Parallel
from antiphon.runtime.groups import Group
from antiphon.runtime.ranks import Ranks

WAIT_SECONDS = 60.0  # a rank that waits longer fails its test instead of hanging it
T = TypeVar("T")


class _Board:
    """What the ranks of one group share."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=WAIT_SECONDS)
        self.turn = threading.Lock()
        self.values: list[Any] = [None] * size
        self.mail: dict[tuple[int, int], queue.Queue[torch.Tensor | None]] = {
            (source, target): queue.Queue() for source in range(size) for target in range(size)
        }


class ThreadGroup(Group):
    """Sums are made in the order of ranks, so that every rank has the same bits."""

    def __init__(self, rank: int, size: int, board: _Board) -> None:
        self.rank, self.size, self._board = rank, size, board
        # For tests that count what is exchanged, and the numbers that this rank gave.
        self.calls: list[str] = []
        self.numbers: list[int] = []

    @classmethod
    def make(cls, size: int) -> list[Self]:
        board = _Board(size)
        return [cls(rank, size, board) for rank in range(size)]

    def turn(self) -> AbstractContextManager[object]:
        """Within it a rank computes."""
        return nullcontext()

    def _exchange(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.numbers.append(x.numel())
        self._board.values[self.rank] = x
        self._board.barrier.wait()
        values = [value.clone() for value in self._board.values]
        self._board.barrier.wait()  # nobody overwrites what another still reads
        return values

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append("all_reduce")
        total, *others = self._exchange(x)
        for other in others:
            total += other
        return total

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append("all_gather")
        return torch.stack(self._exchange(x))

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        self.calls.append("broadcast")
        x.copy_(self._exchange(x)[source])

    def send(self, x: torch.Tensor, target: int) -> None:
        self._board.mail[self.rank, target].put(x.clone())

    def receive(self, into: torch.Tensor, source: int) -> None:
        x = self._board.mail[source, self.rank].get(timeout=WAIT_SECONDS)
        if x is None:
            raise threading.BrokenBarrierError
        into.copy_(x)

    def barrier(self) -> None:
        self._board.barrier.wait()

    def close(self) -> None:
        self._board.barrier.abort()
        for mail in self._board.mail.values():
            mail.put(None)  # wakes who waits for it


class TakingTurns(ThreadGroup):
    """Of its ranks one computes at a time, until it waits for the others: Triton's interpreter has
    one state for all threads."""

    def turn(self) -> AbstractContextManager[object]:
        return self._board.turn

    def _exchange(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._board.turn.release()
        try:
            return super()._exchange(x)
        finally:
            self._board.turn.acquire()


def make_ranks(parallel: Parallel) -> list[Ranks]:
    """All ranks of a replica, whose groups are threads."""
    tensors = [ThreadGroup.make(parallel.tensor) for _ in range(parallel.pipeline)]
    stages, backward = (
        [ThreadGroup.make(parallel.pipeline) for _ in range(parallel.tensor)] for _ in range(2)
    )
    return [
        Ranks(
            parallel, rank, tensors[stage][tensor], stages[tensor][stage], backward[tensor][stage]
        )
        for rank in range(parallel.num_ranks)
        for stage, tensor in [(parallel.stage_of(rank), parallel.tensor_rank_of(rank))]
    ]


def run_ranks(
    size: int, work: Callable[[ThreadGroup], T], kind: type[ThreadGroup] = ThreadGroup
) -> list[T]:
    """What `work` returns on each rank, all of them at once. Raises what the first one raised."""
    groups = kind.make(size)

    def guarded(group: ThreadGroup) -> T:
        try:
            with group.turn():
                return work(group)
        except BaseException:
            group.close()  # or the others would wait for it
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(guarded, group) for group in groups]
        errors = [error for future in futures if (error := future.exception()) is not None]
        broken = threading.BrokenBarrierError
        causes = [error for error in errors if not isinstance(error, broken)]
        for error in [*causes, *errors]:
            raise error
        return [future.result() for future in futures]
