"""Each rank of a replica knows its stage, its groups and its part of the layers."""

import threading
from itertools import pairwise

import pytest
from thread_group import make_ranks

from antiphon.config.parallel import Parallel
from antiphon.layers.shard import Part
from antiphon.runtime.ranks import Ranks

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
        Ranks(Parallel(2), 0, second.tensor, first.stages)


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
