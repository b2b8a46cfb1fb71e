"""Processes that are the ranks of a replica, without Ray: for measurements and tests.

They are kept from one run to the next, as loading torch and opening a GPU take seconds.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NamedTuple, Self

from antiphon.config.parallel import Parallel, RankSpec
from antiphon.runtime.joining import StoreAddress, open_store

HOST = "127.0.0.1"
START_SECONDS = 120.0  # for the others to come, their imports included
COLLECTIVE_SECONDS = 30.0
EXIT_SECONDS = 20.0
GRACE_SECONDS = 10.0  # beyond that, for the others where one has failed


@dataclass(frozen=True)
class Seat:
    """Where a process stands in a run. `address`: of the run's store, which all ranks reach."""

    spec: RankSpec
    address: StoreAddress


class RanksFailed(Exception):
    """`reasons`: by rank, what it raised or how its process ended. `results`: of the others."""

    def __init__(self, reasons: dict[int, str], results: dict[int, Any]) -> None:
        self.reasons, self.results = reasons, results
        super().__init__("\n".join(f"rank {rank}: {why}" for rank, why in reasons.items()))


class _Member(NamedTuple):
    process: Any
    pipe: Connection


class RankProcesses:
    """`count` processes at most. On "cuda", each has a GPU of its own, on "cpu" one thread; "any"
    leaves all to the work."""

    def __init__(self, count: int, device: Literal["cpu", "cuda", "any"]) -> None:
        self.count, self.device = count, device
        self._members: list[_Member] = []

    def run(
        self,
        parallel: Parallel,
        work: Callable[..., Any],
        *arguments: Any,
        limit: float = 300.0,
        collective_timeout: float = COLLECTIVE_SECONDS,
    ) -> list[Any]:
        """What `work(Seat, *arguments)` returns on each rank, all of them at once. It and what it
        takes and gives are pickled.

        Raises RanksFailed where one of them raises, ends, or takes longer than `limit` seconds;
        then the others have as long as they may wait for each other.
        """
        self._start(parallel.num_ranks)
        members = self._members[: parallel.num_ranks]
        store, address = open_store(HOST)
        for rank, member in enumerate(members):
            spec = RankSpec(parallel, rank, collective_timeout, START_SECONDS)
            member.pipe.send((work, Seat(spec, address), arguments))
        results, reasons = _collect(members, limit, collective_timeout + GRACE_SECONDS)
        del store
        if reasons:
            self.close()  # what a failed run leaves on a device must not disturb the next one
            raise RanksFailed(reasons, results)
        return [results[rank] for rank in range(len(members))]

    def pids(self) -> list[int]:
        return [member.process.pid for member in self._members]

    def _start(self, count: int) -> None:
        assert count <= self.count, f"{count} ranks, and {self.count} processes at most"
        context = multiprocessing.get_context("spawn")
        while len(self._members) < count:
            near, far = context.Pipe()
            arguments = (far, len(self._members), self.device)
            process = context.Process(target=_serve, args=arguments)
            process.start()
            far.close()
            self._members.append(_Member(process, near))

    def close(self) -> None:
        """Ends all of them. Another run starts new ones."""
        members, self._members = self._members, []
        for member in members:
            member.pipe.close()  # which ends it
            if self.device == "any":
                member.process.join(EXIT_SECONDS)  # it may have a Ray to end
            member.process.kill()  # threads of gloo and NCCL may not end by themselves
        for member in members:
            member.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _collect(
    members: list[_Member], limit: float, grace: float
) -> tuple[dict[int, Any], dict[int, str]]:
    """Results, and what failed, by rank."""
    results, reasons = dict[int, Any](), dict[int, str]()
    end = time.monotonic() + limit
    waiting: dict[Any, int] = {member.pipe: rank for rank, member in enumerate(members)}
    while waiting:
        ready: list[Any] = wait(list(waiting), max(0.0, end - time.monotonic()))
        if not ready:
            late = dict.fromkeys(waiting.values(), "it did not come back in time")
            return results, {**reasons, **late}
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                is_right, value = pipe.recv()
            except EOFError:
                members[rank].process.join()
                is_right, value = False, f"its process ended: {members[rank].process.exitcode}"
            if is_right:
                results[rank] = value
            else:
                reasons[rank] = value
        if reasons:
            end = min(end, time.monotonic() + grace)
    return results, reasons


def _serve(pipe: Connection, rank: int, device: str) -> None:
    """The process of a rank: works until its pipe is closed."""
    if device == "cuda":  # before CUDA starts, as Ray does for its workers
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = (
            str(rank) if visible is None else visible.split(",")[rank]
        )
    elif device == "cpu":
        import torch

        torch.set_num_threads(1)
    while True:
        try:
            work, seat, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, work(seat, *arguments)
        except Exception:
            answer = False, traceback.format_exc()
        pipe.send(answer)
