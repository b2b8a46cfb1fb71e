"""The host waits for a device as long as `collective_timeout` allows."""

import time

import pytest

from antiphon.runtime.waiting import RankError, WaitLimit, waiting_for


class Work:
    """An event that is done after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.done_at, self.queries, self.was_waited_for = time.monotonic() + seconds, 0, False

    def query(self) -> bool:
        self.queries += 1
        return time.monotonic() >= self.done_at

    def synchronize(self) -> None:
        self.was_waited_for = True


def test_one_rank_alone_waits_as_cuda_does() -> None:
    work = Work(1000)
    WaitLimit().wait(work, "a step")
    assert work.was_waited_for
    assert not work.queries


def test_several_ranks_wait_until_it_is_done() -> None:
    limit = WaitLimit(30)
    began = time.monotonic()
    limit.wait(Work(0.05), "a step")
    assert 0.05 <= time.monotonic() - began < 20


def test_but_not_longer_than_the_limit_which_may_change() -> None:
    limit, began = WaitLimit(1000), time.monotonic()
    limit.seconds = 0.05
    with pytest.raises(RankError, match=r"a step is not done after 0\.\d s: .*collective_timeout"):
        limit.wait(Work(1000), "a step")
    assert time.monotonic() - began < 20
    limit.check(time.monotonic(), "a step")
    with pytest.raises(RankError):
        limit.check(began - 1, "a step")


def test_what_torch_raises_is_typed_and_our_own_error_kept() -> None:
    with (
        pytest.raises(RankError, match=r"in vain for a rank: Timed out \(collective_timeout"),
        waiting_for("a rank"),
    ):
        raise RuntimeError("Timed out\nwith a long trace")
    with pytest.raises(RankError, match=r"^ours$"), waiting_for("a rank"):
        raise RankError("ours")
