"""Fair shares among callers, and priorities that age: nobody starves, nobody is overtaken by his
own later requests, and nothing is lost."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from random_examples import examples

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.fair_queue import FairQueue
from antiphon.scheduler.request import Media, Request, RequestId


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A queue, and requests made for it."""

    def __init__(self, aging_seconds: float = math.inf) -> None:
        self.clock = Clock()
        self.queue = FairQueue(aging_seconds, self.clock)
        self.orders = 0

    def push(
        self, caller: int, tokens: int = 10, priority: int = 0, frontend: str = "f"
    ) -> Request:
        self.orders += 1
        media = Media(str(self.orders), "text", tokens, None)
        request = Request(
            RequestId(frontend, self.orders), np.arange(2), (media,), SamplingParams(),
            DecodingRules(), 3, 0, priority=priority, caller=caller, order=self.orders,
        )  # fmt: skip
        self.queue.push(request)
        return request

    def take(self) -> Request:
        request = self.queue.first()
        assert request is not None
        assert self.queue.first() is request
        self.queue.take(request)
        return request

    def callers(self, count: int) -> list[int]:
        return [self.take().caller for _ in range(count)]


def test_a_clip_passes_hours_of_a_recording() -> None:
    line = Line()
    for _ in range(720):
        line.push(caller=1, tokens=1500)
    assert line.callers(3) == [1, 1, 1]
    line.push(caller=2, tokens=200)
    assert line.callers(2) == [2, 1]
    assert len(line.queue) == 720 - 4


def test_callers_share_by_tokens() -> None:
    line = Line()
    for _ in range(300):
        line.push(caller=1, tokens=95)  # and 5 of the decoder
        line.push(caller=2, tokens=295)
    taken = Counter(line.callers(200))
    assert taken[1] == 150
    assert taken[2] == 50


def test_who_asks_again_at_once_does_not_overtake_who_waits() -> None:
    """A caller with one request at a time, beside one with many."""
    line = Line()
    for _ in range(100):
        line.push(caller=1)
    taken: Counter[int] = Counter()
    line.push(caller=2)
    for _ in range(100):
        caller = line.take().caller
        taken[caller] += 1
        if caller == 2:
            line.push(caller=2)
    assert abs(taken[1] - taken[2]) <= 2


def test_new_callers_without_end_do_not_stop_one_that_waits_with_much() -> None:
    line = Line()
    for _ in range(200):
        line.push(caller=0)
    taken: list[int] = []
    for caller in range(1, 100):  # as many tokens as there is room for beside
        line.push(caller)
        taken += line.callers(2)
    assert taken.count(0) >= 90
    for caller in range(100, 300):  # more than there is room for: shares shrink, but not to nothing
        line.push(caller)
        taken += line.callers(1)
    assert taken.count(0) >= 100


def test_callers_of_two_frontends_are_two() -> None:
    line = Line()
    for _ in range(4):
        line.push(1, frontend="a")
    line.push(1, frontend="b")
    assert [line.take().id.frontend for _ in range(3)] == ["a", "b", "a"]


def test_lower_numbers_first_and_the_higher_ones_at_last() -> None:
    """Urgent requests never end; one of a lower level gets on every ten seconds for each number."""
    line = Line(aging_seconds=10.0)
    low = [line.push(caller=1, priority=2) for _ in range(3)]
    waited = []
    for _ in range(100):
        line.push(caller=2)
        if (request := line.take()).priority == 2:
            waited.append((request, line.clock.now))
            line.take()  # the urgent one that it came before
        line.clock.now += 1.0
    assert [request for request, _ in waited] == low
    times = [0.0, *(time for _, time in waited)]
    assert all(20 <= later - earlier <= 22 for earlier, later in pairwise(times))


def test_without_aging_the_higher_numbers_wait() -> None:
    line = Line()
    line.push(caller=1, priority=1)
    for _ in range(100):
        line.push(caller=2)
        assert line.take().priority == 0
        line.clock.now += 1000.0


def test_nothing_is_kept_of_callers_that_are_gone() -> None:
    line = Line()
    line.push(caller=0, tokens=10**6)
    line.push(caller=0)
    for caller in range(1, 5000):
        line.push(caller)
        line.take()
    (level,) = line.queue._levels.values()
    assert len(level._callers) <= 2
    assert len(level._ahead) < 10
    assert len(level._returns) < 10
    assert len(level._turns) < 40
    while line.queue.first() is not None:
        line.take()
    assert not line.queue._levels


CALLERS, TOKENS, PRIORITIES = st.integers(0, 4), st.integers(1, 50), st.integers(0, 2)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), CALLERS, TOKENS, PRIORITIES),
        st.tuples(st.just("take")),
        st.tuples(st.just("discard"), st.integers(0, 100)),
        st.tuples(st.just("wait"), st.integers(0, 30)),
    ),
    max_size=150,
)


@examples(200)
@given(events=EVENTS, aging=st.sampled_from([1.0, 10.0, math.inf]))
def test_all_get_on_in_their_callers_order(events, aging: float) -> None:
    """Nobody of a level is overtaken by more than others' equal share of tokens."""
    line, waiting = Line(aging), {}
    overtaken: Counter[int] = Counter()  # tokens of one other caller, by order and caller

    def take() -> None:
        request = line.take()
        peers = [
            other for other in waiting.values()
            if (other.caller, other.priority) == (request.caller, request.priority)
        ]  # fmt: skip
        assert request.order == min(peer.order for peer in peers), "a caller's own order"
        del waiting[request.order]
        heads = {
            other.caller: other for other in sorted(waiting.values(), key=_order, reverse=True)
            if other.priority == request.priority
        }  # fmt: skip
        for head in heads.values():
            overtaken[head.order, request.caller] += request.cost
            others = overtaken[head.order, request.caller] - request.cost
            assert others <= 2 * (50 + 5), "one caller took more than its share"

    for kind, *values in events:
        if kind == "push":
            caller, tokens, priority = values
            request = line.push(caller, tokens, priority)
            waiting[request.order] = request
        elif kind == "take" and waiting:
            take()
        elif kind == "discard" and (request := waiting.pop(values[0], None)):
            line.queue.discard(request)
            line.queue.discard(request)
        elif kind == "wait":
            line.clock.now += values[0]
        assert len(line.queue) == len(waiting)
    while waiting:
        take()
    assert line.queue.first() is None


def _order(request: Request) -> int:
    return request.order
