"""A beam search that lacks slots: who goes before it, and for how long."""

from typing import Any

import pytest
from simulated_decoder import END, PAGE, SimulatedDecoder, make_request, start

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.kv.pages import PagePool
from antiphon.scheduler.aside import MOST
from antiphon.scheduler.fair_queue import FairQueue
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.request import Request, RequestState
from antiphon.scheduler.scheduler import Scheduler

SLOTS = 4
LONG, SHORT = 24, 3  # tokens: of a sequence that ends by its length


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(number: int, tokens: int = SHORT, **fields: Any) -> Request:
    return make_request(number, max_tokens=tokens, rules=DecodingRules(), **fields)


def search(number: int, size: int = SLOTS, **fields: Any) -> Request:
    rules = DecodingRules(stop_ids=(END,), beams=BeamRules(size, size))
    return make_request(number, rules=rules, **fields)


class Line:
    """A decoder of SLOTS slots, and in which order requests begin."""

    def __init__(self, aging_seconds: float = 10.0) -> None:
        self.clock = Clock()
        limits = Limits(SLOTS, 64, 32, 8, 1000, 1000, PAGE, aging_seconds=aging_seconds)
        scheduler = Scheduler(limits, PagePool(200), self.clock)
        self.decoder = SimulatedDecoder(scheduler, lag=0)
        self.requests: list[Request] = []
        self.order: list[int] = []

    def add(self, *requests: Request) -> None:
        self.requests += requests
        start(self.decoder, *requests)

    def step(self) -> None:
        start(self.decoder)
        self.decoder.step()
        for request in self.requests:
            number = request.id.number
            if request.metrics.admitted_at is not None and number not in self.order:
                self.order.append(number)

    def run(self) -> list[int]:
        for _ in range(500):
            if not self.decoder.scheduler.requests:
                assert all(request.state is RequestState.DONE for request in self.requests)
                pages = self.decoder.scheduler.pages
                assert pages.num_available == pages.num_pages
                return self.order
            self.step()
        raise AssertionError("not done")


def test_as_many_sequences_go_before_a_search_as_it_has() -> None:
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    line.add(search(1), *map(plain, range(2, 12)))
    assert line.run() == [0, 2, 3, 4, 5, 1, 6, 7, 8, 9, 10, 11]


def test_a_search_that_has_room_goes_first() -> None:
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    line.add(search(1, 3), *map(plain, range(2, 5)))
    assert line.run()[:2] == [0, 1]


def test_searches_keep_their_order_and_smaller_ones_may_pass() -> None:
    line = Line()
    line.add(plain(0, LONG), plain(1, LONG))
    line.step()
    line.add(search(2, 4), search(3, 4), search(4, 2), search(5, 2), search(6, 2), plain(7))
    assert line.run() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_so_many_stand_aside_and_no_more() -> None:
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    line.add(*map(search, range(1, MOST + 2)), plain(MOST + 2))
    line.step()
    assert len(line.decoder.scheduler.intake.aside) == MOST
    assert line.run() == [*range(MOST + 3)]


@pytest.mark.parametrize(("waited", "place"), [(0.0, 11), (25.0, 5)])
def test_urgent_requests_pass_until_a_search_has_risen_to_them(waited: float, place: int) -> None:
    """Two numbers of priority are twenty seconds. Then four more pass, as others would."""
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    line.add(search(1, priority=2))
    line.step()
    line.clock.now = waited
    line.add(*(plain(number, priority=0) for number in range(2, 12)))
    assert line.run().index(1) == place


def test_one_that_is_cancelled_holds_nobody() -> None:
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    gone = search(1)
    line.add(gone, *map(plain, range(2, 12)))
    for _ in range(8):
        line.step()
    assert len(line.order) == 5
    line.decoder.scheduler.cancel(gone.id)
    line.requests.remove(gone)
    line.step()
    assert line.order == [0, 2, 3, 4, 5, 6, 7, 8]
    line.run()


def test_preempted_requests_go_before_searches_aside_and_do_not_count() -> None:
    line = Line()
    line.add(plain(0, LONG), plain(1, LONG), plain(2, LONG), plain(3))
    line.step()
    line.add(search(4), *map(plain, range(5, 11)))
    while line.requests[3].state is not RequestState.DONE:
        line.step()
    line.step()
    scheduler = line.decoder.scheduler
    assert line.requests[4] in scheduler.intake.aside
    while not all(line.requests[number].state.final for number in range(5, 9)):
        line.step()  # as many as the search has
    scheduler.growth.preempt(line.requests[2])
    line.step()
    assert line.requests[2].state is RequestState.RUNNING
    assert line.run() == [*range(4), 5, 6, 7, 8, 4, 9, 10]


def test_a_preempted_request_takes_room_that_a_search_aside_would_have() -> None:
    line = Line()
    line.add(plain(0, LONG), plain(1, LONG))
    line.step()
    line.add(search(2, 3))
    line.step()
    scheduler = line.decoder.scheduler
    for number in range(2):
        scheduler.growth.preempt(line.requests[number])
    line.step()
    states = [request.state for request in line.requests]
    assert states == [RequestState.RUNNING, RequestState.RUNNING, RequestState.READY]
    assert line.run() == [0, 1, 2]


def test_a_preempted_search_is_the_first_aside() -> None:
    """Forks took its slots meanwhile."""
    line = Line()
    line.add(search(0, 2), plain(1, LONG))
    line.step()
    line.add(search(2, 3))
    line.step()
    first, parent, second = line.requests
    scheduler = line.decoder.scheduler
    scheduler.growth.preempt(first)
    for number in (3, 4):
        line.requests.append(plain(number, LONG, seed=1))
        scheduler.fork(parent, line.requests[-1])
    line.step()
    assert scheduler.intake.aside.requests == [first, second]
    while first.state is RequestState.READY:
        assert second.state is RequestState.READY
        line.step()
    line.run()


def test_a_second_search_does_not_hold_those_that_the_first_lets_pass() -> None:
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    line.add(search(1), plain(2), search(3), *map(plain, range(4, 7)))
    line.step()
    assert line.order == [0, 2, 4, 5]
    assert line.run() == [0, 2, 4, 5, 6, 1, 3]


def test_a_level_goes_on_rising_when_a_search_steps_aside() -> None:
    """A search and 5 have waited for more than a number of priority. Neither is less urgent than
    those of the other level then, of which as many pass as the search has sequences."""
    line = Line()
    line.add(plain(0, LONG), *map(plain, range(1, 4)))
    line.step()
    line.add(search(4, priority=1), plain(5, priority=1))
    line.clock.now = 15.0
    line.add(*map(plain, range(6, 14)))
    while len(line.order) == 4:
        line.step()
    assert line.order == [0, 1, 2, 3, 5, 6, 7]
    assert line.run() == [0, 1, 2, 3, 5, 6, 7, 8, 4, *range(9, 14)]


def test_a_caller_pays_once_and_for_what_began() -> None:
    """Its search is cancelled: 8 and 9 come before 6 and 7 of one that had three meanwhile."""
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    gone = search(1, caller=1)
    line.add(gone, *(plain(number, caller=2) for number in range(2, 8)))
    line.add(*(plain(number, caller=1) for number in range(8, 10)))
    line.step()
    assert line.order == [0, 2, 3, 4]
    line.decoder.scheduler.cancel(gone.id)
    line.requests.remove(gone)
    assert line.run() == [0, 2, 3, 4, 5, 8, 9, 6, 7]


def test_searches_of_one_caller_do_not_come_before_a_request_of_another() -> None:
    line = Line()
    line.add(plain(0, LONG))
    line.step()
    line.add(*(search(number, caller=1) for number in range(1, MOST + 2)), plain(99, caller=2))
    line.step()
    assert line.order == [0, 99]
    line.run()


def test_a_search_that_waits_for_its_input_again_pays_no_second_time() -> None:
    """It leaves the place aside, and its caller has what it paid."""
    queue = FairQueue(10.0, Clock())
    one, *others = requests = [search(0, caller=1), *(plain(n, caller=2) for n in range(1, 5))]
    for order, request in enumerate(requests):
        request.order = order
        queue.push(request)
    for _ in range(2):
        assert queue.first() is one
        queue.set_aside(one)
        assert one in queue
        assert queue.first() is others[0]
        queue.discard(one)
        assert one not in queue
        queue.push(one)
    queue.set_aside(one)
    queue.take(one)
    for request in others:
        queue.take(request)
    assert not len(queue)
    assert one not in queue
