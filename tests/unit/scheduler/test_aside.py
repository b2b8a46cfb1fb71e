"""A beam search that lacks slots: who goes before it, and for how long."""

from typing import Any

import pytest
from simulated_decoder import END, PAGE, SimulatedDecoder, make_request, start

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.kv.pages import PagePool
from antiphon.scheduler.aside import MOST
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
