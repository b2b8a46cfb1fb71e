"""Groups of processes over gloo: what they exchange, and that nobody waits for ever."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch

from antiphon.config.parallel import Parallel, RankSpec
from antiphon.runtime.joining import StoreAddress, join, limit_waiting, open_store
from antiphon.runtime.ranks import RankError

CPU, HOST = torch.device("cpu"), "127.0.0.1"
TIMEOUT, START = 3.0, 60.0
# All from one process that has imported torch.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["antiphon.runtime.joining"])


def exchanged(spec: RankSpec, store: StoreAddress) -> dict[str, Any]:
    ranks = join(spec, store, HOST, CPU)
    group, stages = ranks.tensor, ranks.stages
    from_last = torch.tensor([group.rank])
    group.broadcast(from_last, group.size - 1)
    result = {
        "sum": group.all_reduce(torch.full((2,), group.rank + 1.0)).tolist(),
        "ranks": group.all_gather(torch.tensor([group.rank])).flatten().tolist(),
        "last": from_last.item(),
        "least": ranks.minimum(10 + spec.rank, CPU),
    }
    if stages.size > 1:
        other, passed = 1 - stages.rank, torch.zeros(3)
        for _ in range(12):  # each sends before it receives
            stages.send(torch.full((3,), stages.rank + 5.0), other)
        for _ in range(12):
            stages.receive(passed, other)
        result["passed"] = passed.tolist()
    ranks.barrier()
    ranks.close()
    return result


def left_alone(spec: RankSpec, store: StoreAddress, dies: bool) -> str:
    """Rank 1 dies, or never comes to the reduction: what rank 0 hears, and in time."""
    ranks = join(spec, store, HOST, CPU)
    limit_waiting(ranks, spec)
    if spec.rank == 1:
        if dies:
            os._exit(1)
        time.sleep(2 * TIMEOUT)
        return ""
    began = time.monotonic()
    try:
        ranks.tensor.all_reduce(torch.ones(2))
    except RankError as error:
        assert time.monotonic() - began < TIMEOUT + 2
        return str(error)
    return "no error"


def in_processes(parallel: Parallel, work: Callable[..., Any], *more: Any) -> list[Any]:
    """What each rank returns or raises."""
    store, address = open_store(HOST)
    pools = [ProcessPoolExecutor(1, mp_context=PROCESSES) for _ in range(parallel.num_ranks)]
    timeout = TIMEOUT if more else 20.0
    try:
        futures = [
            pool.submit(work, RankSpec(parallel, rank, timeout, START), address, *more)
            for rank, pool in enumerate(pools)
        ]
        return [future.exception() or future.result() for future in futures]
    finally:
        for pool in pools:
            pool.shutdown()
        del store


def test_three_ranks_share_a_stage() -> None:
    for rank, result in enumerate(in_processes(Parallel(3), exchanged)):
        expected = {"sum": [6.0, 6.0], "ranks": [0, 1, 2], "last": 2, "least": 10}
        assert result == expected, rank


def test_two_stages_send_to_each_other_at_once() -> None:
    first, second = in_processes(Parallel(1, 2), exchanged)
    assert first["least"] == second["least"] == 10
    assert first["passed"] == [6.0] * 3
    assert second["passed"] == [5.0] * 3


def test_a_rank_that_dies_is_noticed() -> None:
    message, _ = in_processes(Parallel(2), left_alone, True)
    assert "waited in vain for another rank in all_reduce" in message


def test_a_rank_that_hangs_is_not_waited_for() -> None:
    message, _ = in_processes(Parallel(2), left_alone, False)
    assert "waited in vain for another rank in all_reduce" in message
    assert "collective_timeout" in message


def test_ranks_that_never_come_are_not_waited_for() -> None:
    store, address = open_store(HOST)
    with pytest.raises(RankError, match="waited in vain for the ranks of its replica"):
        join(RankSpec(Parallel(2), 0, TIMEOUT, 1.0), address, HOST, CPU)
    del store
