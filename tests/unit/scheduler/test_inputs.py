"""Requests with no encoder input, and with several: who waits for what, and which are refused."""

import math
from typing import Any

import numpy as np
import pytest

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.pages import PagePool
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import Finished, Media, Request, RequestId, RequestState
from antiphon.scheduler.scheduler import Scheduler

PAGES = 64


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_scheduler(clock: Clock | None = None, **changes: Any) -> Scheduler:
    limits = {
        "max_num_seqs": 4, "max_batched_tokens": 64, "max_len": 40, "max_cross_len": 40,
        "encode_ahead_tokens": 60, "max_waiting": 1000, "page_size": 4,
    }  # fmt: skip
    return Scheduler(Limits(**{**limits, **changes}), PagePool(PAGES), clock or Clock())


def make_request(id_: int, *inputs: Media, prompt: int = 12) -> Request:
    rules = DecodingRules()
    return Request(name(id_), np.arange(2, 2 + prompt), inputs, SamplingParams(), rules, 3, 0)


def name(number: int) -> RequestId:
    return RequestId("frontend", number)


def attended(key: str, tokens: int = 10) -> Media:
    return Media(key, "text", tokens, None)


def placed(key: str, position: int, tokens: int = 4) -> Media:
    return Media(key, "audio", tokens, None, position)


def asked(scheduler: Scheduler) -> list[str]:
    return [media.key for media, _ in scheduler.next_encodes()]


def run_step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.step()
    assert plan is not None
    scheduler.postprocess(plan, StepResult(np.full(len(plan.slots), 9)))
    return plan


def ends(scheduler: Scheduler) -> list[Finished]:
    return [end for output in scheduler.outputs.pop() for end in output.finished]


def test_a_request_without_inputs_is_ready_at_once_and_has_no_cross_pages() -> None:
    scheduler = make_scheduler(encode_ahead_tokens=10)
    scheduler.add(make_request(0, attended("a")))
    scheduler.add(make_request(1, attended("b")))  # waits for room in the budget
    scheduler.add(request := make_request(2))
    assert request.state is RequestState.READY
    assert asked(scheduler) == ["a"]
    plan = run_step(scheduler)
    assert plan.ids.tolist() == [request.order]
    assert [admission.cross_len for admission in plan.admissions] == [0]
    assert plan.cross_writes == []
    assert scheduler.pages.num_available == PAGES - 3  # of 12 prompt tokens
    for _ in range(2):
        run_step(scheduler)
    assert [end.state for end in ends(scheduler)] == [RequestState.DONE]
    assert scheduler.pages.num_available == PAGES
    scheduler.pages.check()
    scheduler.batch.check()


def test_rows_with_and_without_cross_attention_share_a_step() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request(0, attended("a", 7)))
    scheduler.add(make_request(1))
    asked(scheduler)
    scheduler.encoded("a")
    plan = run_step(scheduler)
    assert sorted(admission.cross_len for admission in plan.admissions) == [0, 7]


def test_a_request_is_ready_when_all_its_inputs_have_arrived() -> None:
    scheduler = make_scheduler()
    request = make_request(0, placed("a", 0), attended("x"), placed("b", 6))
    scheduler.add(request)
    assert asked(scheduler) == ["a", "x", "b"]
    for key in ("b", "a"):
        scheduler.encoded(key)
        assert request.state is RequestState.ENCODING
    scheduler.encoded("x")
    assert request.state is RequestState.READY


def test_the_inputs_of_a_request_are_asked_for_together_or_not_at_all() -> None:
    scheduler = make_scheduler(encode_ahead_tokens=9)
    scheduler.add(make_request(0, placed("a", 0), placed("b", 4)))
    scheduler.add(second := make_request(1, placed("a", 0), placed("c", 4)))
    scheduler.add(make_request(2, placed("b", 0)))
    assert asked(scheduler) == ["a", "b"]
    assert second.state is RequestState.WAITING  # "a" is under way, "c" has no room
    scheduler.cancel(name(0))
    for withdrawal in scheduler.encodes.pop_withdrawals():
        scheduler.withdrawn([withdrawal.key])
    assert asked(scheduler) == ["a", "c"]
    assert second.state is RequestState.ENCODING


def test_an_input_that_a_request_has_twice_is_encoded_once() -> None:
    scheduler = make_scheduler()
    scheduler.add(request := make_request(0, placed("a", 0), placed("a", 4)))
    assert asked(scheduler) == ["a"]
    scheduler.encoded("a")
    assert request.state is RequestState.READY


def test_one_failed_input_ends_the_request_and_takes_the_others_back() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request(0, placed("a", 0), placed("b", 4), placed("c", 8)))
    asked(scheduler)
    scheduler.encoded("c")
    scheduler.encode_failed("a", "broken")
    (end,) = ends(scheduler)
    assert (end.state, end.error) == (RequestState.FAILED, "broken")
    assert [withdrawal.key for withdrawal in scheduler.encodes.pop_withdrawals()] == ["b"]
    assert "c" in scheduler.encodes.kept
    scheduler.withdrawn(["b"])
    assert scheduler.encodes.tokens == 0


def test_inputs_that_are_overdue_together_fail_their_request_once() -> None:
    clock = Clock()
    scheduler = make_scheduler(clock, encode_timeout=5.0)
    scheduler.add(make_request(0, placed("a", 0), placed("b", 4)))
    asked(scheduler)
    clock.now = 10.0
    assert scheduler.step() is None
    assert [end.state for end in ends(scheduler)] == [RequestState.FAILED]


def test_a_request_whose_inputs_were_both_withdrawn_asks_for_them_once_more() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request(0, placed("a", 0), placed("b", 4)))
    asked(scheduler)
    scheduler.cancel(name(0))
    assert len(scheduler.encodes.pop_withdrawals()) == 2
    scheduler.add(request := make_request(1, placed("a", 0), placed("b", 4)))
    assert asked(scheduler) == []  # joins what may still come
    scheduler.withdrawn(["a", "b"])
    assert request.state is RequestState.WAITING
    assert asked(scheduler) == ["a", "b"]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ((attended("a"), attended("b")), "2 inputs to attend to"),
        ((placed("a", -1),), "4 tokens at position -1 of a prompt of 12"),
        ((placed("a", 9),), "4 tokens at position 9 of a prompt of 12"),
        ((placed("b", 4), placed("a", 2)), "4 tokens at position 4"),
        ((placed("a", 0, 0),), "0 encoder tokens must be at least 1"),
        ((placed("a", math.nan),), "cannot be served: TypeError"),  # type: ignore[arg-type]
    ],
)
def test_inputs_that_cannot_be_are_refused(inputs: tuple[Media, ...], reason: str) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request(0, *inputs))
    (end,) = ends(scheduler)
    assert end.state is RequestState.REFUSED
    assert end.error is not None
    assert reason in end.error


def test_a_fork_amid_placed_inputs_waits_for_its_own() -> None:
    scheduler = make_scheduler(max_batched_tokens=4)
    scheduler.add(parent := make_request(0, placed("p", 6)))
    asked(scheduler)
    scheduler.encoded("p")
    run_step(scheduler)  # four tokens: not yet those of the input
    child = make_request(1, placed("p", 6))
    scheduler.fork(parent, child)
    assert child.state is not RequestState.RUNNING
    for _ in range(20):
        for key in asked(scheduler):
            scheduler.encoded(key)
        if plan := scheduler.step():
            scheduler.postprocess(plan, StepResult(np.full(len(plan.slots), 9)))
    assert sorted(end.number for end in ends(scheduler)) == [0, 1]
    assert scheduler.pages.num_available == PAGES


def test_a_request_that_asks_again_does_not_wait_for_room_that_it_holds_itself() -> None:
    """Its first input is lost with its encoder, while the second has come."""
    scheduler = make_scheduler(encode_ahead_tokens=5)
    scheduler.set_encoders({"e0": 1})
    scheduler.add(make_request(0, placed("a", 1, 3), placed("b", 4, 5)))
    assert asked(scheduler) == ["a", "b"]
    scheduler.encoded("b")
    scheduler.encoder_lost("e0")
    scheduler.set_encoders({"e1": 1})
    for key in asked(scheduler):
        scheduler.encoded(key)
    run_step(scheduler)


def test_a_request_whose_beginning_was_evicted_does_not_wait_for_room_that_it_holds() -> None:
    """It was ready: its first input lay in cached pages of its beginning, the second had come."""
    scheduler = make_scheduler(encode_ahead_tokens=5, prefix_caching=True)
    scheduler.add(make_request(0, placed("a", 1, 3), prompt=9))
    assert asked(scheduler) == ["a"]
    scheduler.encoded("a")
    while scheduler.requests:
        run_step(scheduler)
    scheduler.add(make_request(1, placed("a", 1, 3), placed("b", 9, 5), prompt=20))
    assert asked(scheduler) == ["b"]
    scheduler.encoded("b")
    pages = scheduler.pages.allocate(scheduler.pages.num_available)
    assert pages is not None
    scheduler.pages.release(pages)  # nothing is cached any more
    scheduler.step()
    for key in asked(scheduler):
        scheduler.encoded(key)
    run_step(scheduler)
