"""Lanes: which sequences belong to one, and that none waits for another."""

import pytest
from simulated_decoder import (
    PAGE,
    SimulatedDecoder,
    make_request,
    make_scheduler,
    start,
    undisturbed,
)

from antiphon.scheduler.plan import StepPlan
from antiphon.scheduler.request import Request, RequestState
from antiphon.scheduler.scheduler import Scheduler

MAX_TOKENS = 4
POOL = 5  # pages: two for cross KV, one for each of two sequences, and another


def started(*requests: Request, **limits: int) -> tuple[Scheduler, SimulatedDecoder]:
    scheduler = make_scheduler(**{"num_lanes": 2, **limits})
    decoder = SimulatedDecoder(scheduler, lag=2)
    start(decoder, *requests)
    return scheduler, decoder


def planned(scheduler: Scheduler, lane: int) -> StepPlan:
    plan = scheduler.step(lane)
    assert plan is not None
    assert plan.lane == lane
    return plan


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_ready_requests_are_spread_evenly_over_lanes(lanes: int) -> None:
    scheduler, _ = started(*map(make_request, range(6)), num_lanes=lanes)
    sizes = [len(planned(scheduler, lane).slots) for lane in range(lanes)]
    assert sizes == scheduler.batch.lane_sizes
    assert sum(sizes) == 6
    assert max(sizes) - min(sizes) <= 1


def test_a_lane_that_lost_sequences_gets_the_next_ones() -> None:
    scheduler, decoder = started(*map(make_request, range(6)), max_num_seqs=12)
    first = planned(scheduler, 0)
    planned(scheduler, 1)
    for slot in first.slots[:2]:
        scheduler.cancel(scheduler.batch.request_at(slot).id)
    assert scheduler.batch.lane_sizes == [1, 3]
    start(decoder, make_request(6), make_request(7))
    assert not planned(scheduler, 1).admissions
    assert len(planned(scheduler, 0).admissions) == 2


def test_a_lane_runs_ahead_without_the_tokens_of_another() -> None:
    scheduler, decoder = started(make_request(0), make_request(1))
    plans = [planned(scheduler, lane) for lane in (0, 1, 0, 1, 0)]
    assert [plan.ids.tolist() for plan in plans] == [[1], [2], [1], [2], [1]]
    for plan in plans:
        result = decoder.run(plan)
        assert result is not None
        scheduler.postprocess(plan, result)
    assert scheduler.batch.pending.sum() == 0


def test_forks_stay_in_the_lane_of_their_parent() -> None:
    scheduler, decoder = started(make_request(0, 6), make_request(1, 6))
    for lane in (0, 1):
        plan = planned(scheduler, lane)
        scheduler.postprocess(plan, decoder.run(plan))
    parent = scheduler.batch.request_at(plan.slots[0])
    for number in (10, 11):
        scheduler.fork(parent, make_request(number, 6, seed=parent.seed))
    assert scheduler.batch.lane_sizes == [1, 3]
    assert len(planned(scheduler, 1).slots) == 3


def test_each_lane_has_a_budget_of_its_own() -> None:
    scheduler, _ = started(*(make_request(n, 8) for n in range(2)), max_batched_tokens=8)
    assert [planned(scheduler, lane).num_tokens for lane in (0, 1)] == [8, 8]


def two_long(*prompts: int) -> list[Request]:
    """Requests with prompts of so many tokens, which generate MAX_TOKENS each."""
    candidates = (make_request(n, prompt, MAX_TOKENS) for prompt in prompts for n in range(50))
    long = [each for each in candidates if len(undisturbed(each, ord("a"))) == MAX_TOKENS]
    first = long[0]
    return [first, next(each for each in reversed(long) if each.seed != first.seed)]


def settle(scheduler: Scheduler, decoder: SimulatedDecoder, *plans: StepPlan) -> None:
    for plan in plans:
        result = decoder.run(plan)
        assert result is not None
        scheduler.postprocess(plan, result)


def test_a_lane_short_of_pages_does_not_hold_up_the_others() -> None:
    """Both need a second page for their second token, and one is left."""
    first, second = two_long(PAGE, PAGE)
    scheduler, decoder = started(first, second, pages=POOL)
    begun = [planned(scheduler, lane) for lane in (0, 1)]
    ahead = [planned(scheduler, 0)]
    assert ahead[0].new_pages.slots.size
    assert scheduler.step(1) is None  # its own token must come first
    ahead.append(planned(scheduler, 0))
    settle(scheduler, decoder, *begun)
    assert scheduler.step(1) is None
    assert second.state is RequestState.READY  # last in line, and all its tokens known
    settle(scheduler, decoder, *ahead)
    assert planned(scheduler, 0).ids.tolist() == [first.order]


def held() -> tuple[Scheduler, SimulatedDecoder, Request, Request, list[StepPlan]]:
    """The first in line is short of a page, which the last in line has. Plans of the last one,
    whose tokens are still to come."""
    first, second = two_long(PAGE - 1, PAGE)
    scheduler, decoder = started(first, second, pages=POOL)
    plans = [planned(scheduler, lane) for lane in (0, 1, 0, 1)]
    settle(scheduler, decoder, plans[0], plans[2])
    assert scheduler.step(0) is None
    assert first.state is second.state is RequestState.RUNNING
    assert scheduler.step(1) is None, "it gets no more tokens"
    return scheduler, decoder, first, second, [plans[1], plans[3]]


def test_the_last_in_line_gives_way_also_in_another_lane() -> None:
    scheduler, decoder, first, second, plans = held()
    settle(scheduler, decoder, *plans)
    assert planned(scheduler, 0).ids.tolist() == [first.order]
    assert second.state is RequestState.READY
    assert len(second.generated) == 2


def test_a_sequence_is_not_held_for_a_lane_that_is_no_longer_short() -> None:
    scheduler, _, first, second, _ = held()
    scheduler.cancel(first.id)
    assert scheduler.step(0) is None
    assert planned(scheduler, 1).ids.tolist() == [second.order]
