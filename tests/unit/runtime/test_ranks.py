"""Each rank of a replica knows its stage, its groups and its part of the layers."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import pytest
import torch
from thread_group import make_ranks

from antiphon.config.parallel import Parallel
from antiphon.layers.shard import Part
from antiphon.runtime.pausable import Pausable
from antiphon.runtime.ranks import RankError, Ranks

T = TypeVar("T")
CPU = torch.device("cpu")

LAYOUTS = [Parallel(), Parallel(2), Parallel(3), Parallel(1, 2), Parallel(2, 2), Parallel(2, 3)]


def test_one_rank_leads_itself() -> None:
    ranks = Ranks.alone()
    assert ranks.is_alone
    assert ranks.is_leader
    part = Part.of(ranks, 6)
    assert (part.layers, part.is_first, part.is_last, part.shard.size) == (range(6), True, True, 1)
    ranks.barrier()


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_parts_cover_all_layers_in_order(parallel: Parallel) -> None:
    ranks = make_ranks(parallel)
    assert [one.is_leader for one in ranks].count(True) == 1
    assert next(one for one in ranks if one.is_leader).stage == parallel.pipeline - 1
    for tensor_rank in range(parallel.tensor):
        parts = [Part.of(one, 7) for one in ranks if one.tensor.rank == tensor_rank]
        assert [layer for part in parts for layer in part.layers] == list(range(7))
        assert [part.is_first for part in parts] == [i == 0 for i in range(len(parts))]
        assert [part.is_last for part in parts] == [i == len(parts) - 1 for i in range(len(parts))]
        assert all(len(a.layers) >= len(b.layers) for a, b in pairwise(parts))
        assert {(part.shard.rank, part.shard.size) for part in parts} == {
            (tensor_rank, parallel.tensor)
        }


def test_groups_must_match_the_layout() -> None:
    first, second = make_ranks(Parallel(2))
    with pytest.raises(AssertionError):
        Ranks(Parallel(2), 0, second.tensor, first.stages, first.backward)


@pytest.mark.parametrize("parallel", [Parallel(3), Parallel(1, 3), Parallel(2, 2)], ids=str)
def test_no_rank_leaves_a_barrier_before_the_last_one_came(parallel: Parallel) -> None:
    ranks = make_ranks(parallel)
    for late in range(parallel.num_ranks):
        threads = [threading.Thread(target=one.barrier) for one in ranks if one.rank != late]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.05)
        assert all(thread.is_alive() for thread in threads)
        ranks[late].barrier()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)


LARGE = [Parallel(3), Parallel(1, 3), Parallel(2, 2)]


def on_all(parallel: Parallel, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` returns on each rank, all of them at once."""
    with ThreadPoolExecutor(parallel.num_ranks) as pool:
        return list(pool.map(work, make_ranks(parallel)))


@pytest.mark.parametrize("parallel", LARGE, ids=str)
def test_the_minimum_is_that_of_all_ranks(parallel: Parallel) -> None:
    for lowest in range(parallel.num_ranks):
        values = on_all(
            parallel,
            lambda one: one.minimum(5 if one.rank == lowest else 9, CPU),  # noqa: B023
        )
        assert values == [5] * parallel.num_ranks
    assert Ranks.alone().minimum(7, CPU) == 7


@pytest.mark.parametrize("parallel", LARGE, ids=str)
def test_all_do_what_every_rank_can(parallel: Parallel) -> None:
    last = parallel.num_ranks - 1
    reasons = on_all(
        parallel, lambda one: one.reason_of_any("no" if one.rank == last else None, CPU)
    )
    assert reasons == ["another rank cannot"] * last + ["no"]
    assert on_all(parallel, lambda one: one.reason_of_any(None, CPU)) == [None] * (last + 1)
    assert Ranks.alone().reason_of_any("no", CPU) == "no"


@pytest.mark.parametrize("parallel", LARGE, ids=str)
def test_what_differs_between_ranks_is_refused_on_all(parallel: Parallel) -> None:
    def refused(one: Ranks, odd: int) -> str:
        try:
            one.check_same("their graphs", [8, 4 if one.rank == odd else 2], CPU)
        except RankError as error:
            return str(error)
        return "the same"

    for odd in range(parallel.num_ranks):
        messages = on_all(parallel, lambda one: refused(one, odd))  # noqa: B023
        assert all("the ranks differ in their graphs; here: [8, " in text for text in messages)
    assert on_all(parallel, lambda one: refused(one, -1)) == ["the same"] * parallel.num_ranks
    Ranks.alone().check_same("their graphs", [8], CPU)


@pytest.mark.parametrize("parallel", LARGE, ids=str)
def test_all_ranks_get_what_the_leader_has(parallel: Parallel) -> None:
    def share(one: Ranks) -> list[int]:
        x = torch.full((2,), one.rank)
        one.broadcast(x, one.leader)
        return x.tolist()

    assert on_all(parallel, share) == [[parallel.leader] * 2] * parallel.num_ranks


def test_while_paused_no_rank_waits_for_another() -> None:
    first, _ = (one.pausable() for one in make_ranks(Parallel(2)))
    x = torch.ones(3, 4)
    with first.paused():
        first.barrier()
        first.broadcast(x, first.leader)
        first.tensor.send(x, 1)
        first.tensor.receive(x, 1)
        assert first.tensor.all_reduce(x).shape == (3, 4)
        assert first.tensor.all_gather(x).shape == (2, 3, 4)
    assert isinstance(first.tensor, Pausable)
    assert not first.tensor.paused
    with Ranks.alone().pausable().paused():
        pass


def test_behind_a_pause_ranks_exchange_again() -> None:
    def total(one: Ranks) -> list[float]:
        own = one.pausable()
        with own.paused():
            own.tensor.all_reduce(torch.ones(2))
        return own.tensor.all_reduce(torch.ones(2)).tolist()

    assert on_all(Parallel(3), total) == [[3.0, 3.0]] * 3
