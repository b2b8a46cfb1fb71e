"""The page pool: no page is lost, none has two owners by mistake, whatever is asked of it."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from random_examples import examples

from antiphon.kv.pages import PagePool


def test_pages_of_a_key_are_found_again_until_they_are_evicted() -> None:
    pool = PagePool(4)
    first = pool.allocate_keyed("clip", 2)
    assert first is not None
    np.testing.assert_array_equal(pool.share("clip"), first)
    pool.release_keyed("clip")
    pool.release_keyed("clip")
    assert "clip" in pool
    assert pool.num_available == 4
    assert pool.allocate(3) is not None  # needs one of the cached pages
    assert "clip" not in pool
    pool.check()


def test_the_least_recently_used_content_goes_first() -> None:
    pool = PagePool(3)
    for key in "abc":
        pool.allocate_keyed(key, 1)
        pool.release_keyed(key)
    pool.share("a")
    pool.release_keyed("a")
    pool.allocate(1)
    assert ["a" in pool, "b" in pool, "c" in pool] == [True, False, True]


def test_pages_by_kind() -> None:
    pool = PagePool(10)
    own = pool.allocate(3)
    assert own is not None
    pool.publish(own[0], b"block")
    pool.allocate_keyed("clip", 2)
    pool.allocate_keyed("text", 1)
    pool.release_keyed("text")
    assert pool.num_by_kind == {"self": 3, "cross": 2, "cached": 1, "free": 4}
    pool.release(own)
    assert pool.num_by_kind == {"self": 0, "cross": 2, "cached": 2, "free": 6}


def test_counters_tell_of_hidden_states_only_where_they_have_pages() -> None:
    states = PagePool(6)
    states.allocate_keyed("clip", 2)
    states.allocate_keyed("text", 1)
    states.release_keyed("text")
    pool = PagePool(10, states)
    pool.allocate(4)
    of_kv = {"": 10, "_available": 6, "_self": 4, "_cross": 0, "_cached": 0, "_free": 6}
    of_states = {"": 6, "_available": 4, "_used": 2, "_cached": 1, "_free": 3}
    kv = {f"kv_pages{kind}": count for kind, count in of_kv.items()}
    assert pool.counters == kv | {f"hidden_state_pages{kind}": n for kind, n in of_states.items()}
    alone = PagePool(10)
    alone.allocate(4)
    assert alone.counters == kv


def test_what_is_not_to_be_kept_is_evicted_before_all_else() -> None:
    pool = PagePool(4)
    for key, keep in (("song", True), ("live", False), ("talk", True)):
        pool.allocate_keyed(key, 1)
        pool.release_keyed(key, keep)
    assert pool.allocate(2) is not None  # the free page, and one more
    assert sorted(pool.keys) == ["song", "talk"]
    pool.check()


def test_owned_pages_are_never_evicted() -> None:
    pool = PagePool(3)
    pool.allocate_keyed("clip", 2)
    assert pool.available_beside("clip") == 1
    assert pool.allocate(2) is None
    assert "clip" in pool


def test_releasing_twice_is_caught() -> None:
    pool = PagePool(2)
    pages = pool.allocate(1)
    assert pages is not None
    pool.release(pages)
    with pytest.raises(AssertionError):
        pool.release(pages)


class PoolMachine(RuleBasedStateMachine):
    """Random allocations, shares and releases; a model counts who should own what."""

    owned = Bundle("owned")

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.plain: list[np.ndarray] = []
        self.users: dict[str, int] = {}

    @rule(target=owned, count=st.integers(1, 5))
    def allocate(self, count: int):
        available = self.pool.num_available
        pages = self.pool.allocate(count)
        assert (pages is None) == (count > available)
        if pages is None:
            return multiple()
        assert len(set(pages.tolist())) == count
        self.plain.append(pages)
        return (None, pages)

    @rule(target=owned, key=st.sampled_from("abcd"), count=st.integers(1, 4))
    def allocate_or_share(self, key: str, count: int):
        if key in self.pool:
            self.pool.share(key)
        elif self.pool.allocate_keyed(key, count) is None:
            return multiple()
        self.users[key] = self.users.get(key, 0) + 1
        return (key, None)

    @rule(owner=consumes(owned))
    def release(self, owner) -> None:
        key, pages = owner
        if key is None:
            self.pool.release(pages)
            self.plain = [other for other in self.plain if other is not pages]
        else:
            self.pool.release_keyed(key)
            self.users[key] -= 1

    @invariant()
    def nothing_is_lost(self) -> None:
        self.pool.check()
        held = [page for pages in self.plain for page in pages.tolist()]
        assert len(held) == len(set(held))
        in_use = len(held) + sum(
            len(self.pool._by_key[key]) for key, users in self.users.items() if users
        )
        assert self.pool.num_available == self.pool.num_pages - in_use


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = examples(60, stateful_step_count=40)
