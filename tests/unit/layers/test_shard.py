"""Every head, feature and word belongs to the ranks that should have it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thread_group import ThreadGroup

from antiphon.layers.shard import Shard, Span

SIZES = st.integers(1, 8)


@given(st.integers(1, 500), SIZES, st.sampled_from([1, 8, 16]))
def test_shares_cover_everything_once(total: int, size: int, multiple: int) -> None:
    shares = [Span.share(total, rank, size, multiple) for rank in range(size)]
    assert [number for share in shares for number in range(share.first, share.end)] == list(
        range(total)
    )
    assert all(share.count % multiple == 0 for share in shares if share.end < total)
    units = [-(-share.count // multiple) for share in shares]
    assert max(units) - min(units) <= 1


@given(st.integers(1, 8), st.integers(1, 8), SIZES)
def test_heads_of_a_rank_share_its_key_value_heads_equally(
    kv: int, sharing: int, size: int
) -> None:
    queries = kv * sharing
    if size > queries:
        return
    shares = [Shard(group).heads(queries, kv) for group in ThreadGroup.make(size)]
    covered = sorted(
        number for heads in shares for number in range(heads.queries.first, heads.queries.end)
    )
    assert covered == list(range(queries))
    for heads in shares:
        assert heads.queries.count >= 1
        assert heads.queries.count % heads.kv.count == 0
        local_sharing = heads.queries.count // heads.kv.count
        for local, number in enumerate(range(heads.queries.first, heads.queries.end)):
            assert number // sharing == heads.kv.first + local // local_sharing


@pytest.mark.parametrize(
    ("total", "size", "counts"), [(20, 3, [7, 7, 6]), (20, 8, [3, 3, 3, 3, 2, 2, 2, 2])]
)
def test_twenty_heads_are_spread_unevenly(total: int, size: int, counts: list[int]) -> None:
    shares = [Shard(group).heads(total, total).queries.count for group in ThreadGroup.make(size)]
    assert shares == counts
