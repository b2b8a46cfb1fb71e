"""The scheduler without any model: admission, preemption, cancellation, deadlines, and that every request ends exactly once."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.config.sampling import DecodingRules, SamplingParams
from antiphon.kv.pages import PagePool
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import TRANSITIONS, Finished, Media, Request, RequestState
from antiphon.scheduler.scheduler import Limits, Scheduler

PAGE, END = 4, 1


def make_scheduler(pages: int = 64, **changes: int) -> Scheduler:
    limits = {
        "max_num_seqs": 4, "max_batched_tokens": 64, "max_len": 40, "max_cross_len": 40, "encode_ahead_tokens": 60, "max_waiting": 1000,
        "page_size": PAGE,
    }  # fmt: skip
    return Scheduler(Limits(**{**limits, **changes}), PagePool(pages))


def make_request(id_: int, key: str = "", cross: int = 10, prompt: int = 2, max_tokens: int = 5, **fields) -> Request:
    media = Media(key or f"media{id_}", "text", cross, None)
    rules = DecodingRules(stop_ids=(END,))
    return Request(id_, np.arange(2, 2 + prompt), media, SamplingParams(), rules, max_tokens, seed=0, **fields)


class Driver:
    """Plays encoder and model: every token is a function of the sequence so far, as greedy decoding is.

    `looks_ahead`: a round's results arrive after the next round was planned, as on a GPU. `per_round`: steps planned at once.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        token: Callable[[int, int], int] = lambda id_, position: 7,
        looks_ahead: bool = False,
        per_round: int = 1,
    ) -> None:
        self.scheduler, self.token, self.looks_ahead, self.per_round = scheduler, token, looks_ahead, per_round
        self.under_way: list[tuple[StepPlan, StepResult]] = []
        self.ended: dict[int, Finished] = {}
        self.plans: list[StepPlan] = []
        self.encoding: list[str] = []
        self.hidden: set[str] = set()  # arrived, not yet written
        self.written: set[str] = set()

    def ask(self) -> None:
        self.encoding += [media.key for media, _ in self.scheduler.next_encodes()]

    def deliver(self, key: str) -> None:
        self.encoding.remove(key)
        self.hidden.add(key)
        self.scheduler.encoded(key)

    def step(self) -> None:
        self.ask()
        plan = self.scheduler.step()
        self.hidden -= set(self.scheduler.take_unwanted())
        before, self.under_way = self.under_way, []
        while plan is not None:
            self.check(plan)
            self.plans.append(plan)
            tokens = [self.token(int(id_), int(length)) for id_, length in zip(plan.ids, plan.kv_lens, strict=True)]
            self.under_way.append((plan, StepResult(np.array(tokens, np.int64))))
            plan = self.scheduler.advance() if len(self.under_way) < self.per_round else None
        for step in before:
            self.scheduler.postprocess(*step)
        while self.under_way and not self.looks_ahead:
            self.scheduler.postprocess(*self.under_way.pop(0))
        for end in self.scheduler.take_output().finished:
            assert end.id not in self.ended, "ended twice"
            self.ended[end.id] = end
        self.scheduler.pages.check()

    def check(self, plan: StepPlan) -> None:
        """Every row has pages for all its tokens, and nobody else's."""
        for write in plan.cross_writes:
            assert write.key in self.hidden, "cross KV without hidden states"
            self.hidden.remove(write.key)
        assert plan.num_tokens <= max(self.scheduler.limits.max_batched_tokens, self.scheduler.limits.max_len)
        assert (np.diff(plan.query_lens > 1) >= 0).all(), "decodes come first"
        own: list[int] = []
        for row, slot in enumerate(plan.slots):
            pages = self.scheduler.batch.self_table[slot, : -(-plan.kv_lens[row] // PAGE)].tolist()
            assert len(pages) * PAGE >= plan.kv_lens[row]
            own += pages
        assert len(own) == len(set(own)), "two sequences write to one page"
        cross = {
            page for row in range(len(plan.slots)) for page in plan.cross_table[row, : -(-plan.cross_lens[row] // PAGE)].tolist()
        }
        assert not cross & set(own)

    def run(self, steps: int = 2000) -> dict[int, Finished]:
        for _ in range(steps):
            if not self.scheduler.requests:
                break
            self.step()
            for key in list(self.encoding):
                self.deliver(key)
        assert not self.scheduler.requests, "not done"
        return self.ended


def test_a_request_runs_to_its_length() -> None:
    driver = Driver(make_scheduler())
    driver.scheduler.add(make_request(0, max_tokens=5))
    end = driver.run()[0]
    assert (end.state, end.reason, end.token_ids) == (RequestState.DONE, "length", [7] * 5)
    assert driver.scheduler.pages.num_available == 64


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_stop_token_ends_it(looks_ahead: bool) -> None:
    driver = Driver(make_scheduler(), lambda id_, position: END if position == 4 else 9, looks_ahead)
    driver.scheduler.add(make_request(0, prompt=2, max_tokens=20))
    end = driver.run()[0]
    assert (end.reason, end.token_ids) == ("stop", [9, 9, END])


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_round_of_several_steps_gives_the_same_tokens(looks_ahead: bool) -> None:
    """Stops and lengths fall in the middle of rounds; new requests come in between rounds, and pages run short."""
    ends = []
    for per_round in (1, 3, 8):
        driver = Driver(make_scheduler(15), lambda id_, position: END if position == 9 + 4 * id_ else 9, looks_ahead, per_round)
        for i in range(4):
            driver.scheduler.add(make_request(i, f"k{i}", prompt=2 + i, max_tokens=10))
        ends.append({i: (end.reason, end.token_ids) for i, end in driver.run().items()})
    assert ends[0] == ends[1] == ends[2]
    assert {reason for reason, _ in ends[0].values()} == {"stop", "length"}


def test_looking_ahead_costs_one_wasted_row_at_a_stop_and_none_at_the_length() -> None:
    def rows(token: Callable[[int, int], int], looks_ahead: bool) -> int:
        driver = Driver(make_scheduler(), token, looks_ahead)
        driver.scheduler.add(make_request(0, prompt=2, max_tokens=8))
        driver.run()
        return sum(len(plan.slots) for plan in driver.plans)

    assert rows(lambda id_, position: 9, True) == rows(lambda id_, position: 9, False) == 8
    assert rows(lambda id_, position: END if position == 4 else 9, True) == 4
    assert rows(lambda id_, position: END if position == 4 else 9, False) == 3


def test_a_result_that_comes_after_its_slot_was_given_away_is_dropped() -> None:
    driver = Driver(make_scheduler(max_num_seqs=1), lambda id_, position: 10 + id_, looks_ahead=True)
    driver.scheduler.add(make_request(0, max_tokens=20))
    driver.scheduler.add(make_request(1, max_tokens=3))
    driver.ask()
    for key in list(driver.encoding):
        driver.deliver(key)
    driver.step()
    driver.step()
    driver.scheduler.cancel(0)  # its token is still under way
    driver.run()
    assert driver.ended[0].token_ids == [10]
    assert driver.ended[1].token_ids == [11, 11, 11]


def test_a_request_joins_at_the_next_step() -> None:
    driver = Driver(make_scheduler())
    driver.scheduler.add(make_request(0, max_tokens=20))
    for _ in range(3):
        driver.step()
        for key in list(driver.encoding):
            driver.deliver(key)
    driver.scheduler.add(make_request(1, key="media0"))
    driver.step()
    assert driver.plans[-1].query_lens.tolist() == [1, 2]  # a decode beside a prompt


def test_equal_content_is_encoded_once() -> None:
    driver = Driver(make_scheduler())
    for id_ in range(6):
        driver.scheduler.add(make_request(id_, key="clip"))
    driver.run()
    driver.scheduler.add(make_request(6, key="clip"))
    driver.run()
    assert driver.scheduler.counters["encodes"] == 1
    assert driver.scheduler.counters["cross_cache_hits"] == 6


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_full_pool_preempts_and_gives_the_same_tokens(looks_ahead: bool) -> None:
    def token(id_: int, position: int) -> int:
        return 2 + (id_ * 31 + position * 7) % 50

    roomy, tight = (Driver(make_scheduler(pages), token, looks_ahead) for pages in (64, 15))
    for driver in (roomy, tight):
        for id_ in range(6):
            driver.scheduler.add(make_request(id_, cross=8, max_tokens=20))
        driver.run()
    assert tight.scheduler.counters["preemptions"] > 0
    assert roomy.scheduler.counters["preemptions"] == 0
    assert {id_: end.token_ids for id_, end in roomy.ended.items()} == {id_: end.token_ids for id_, end in tight.ended.items()}


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"max_tokens": 39}, ["2 prompt tokens", "max_tokens=39", "40"]),
        ({"cross": 41}, ["41 encoder tokens", "40"]),
        ({"cross": 40, "max_tokens": 30}, ["18 KV pages", "pool has 16"]),
    ],
)
def test_what_can_never_fit_is_refused_with_the_numbers(fields: dict[str, int], numbers: list[str]) -> None:
    driver = Driver(make_scheduler(16))
    driver.scheduler.add(make_request(0, **fields))
    driver.step()
    end = driver.ended[0]
    assert end.state is RequestState.REFUSED
    assert all(number in end.error for number in numbers), end.error


def test_a_full_queue_refuses() -> None:
    driver = Driver(make_scheduler(max_waiting=2, max_num_seqs=1))
    for id_ in range(5):
        driver.scheduler.add(make_request(id_))
    driver.step()
    assert [end.state for end in driver.ended.values()] == [RequestState.REFUSED] * 2
    assert "2 requests are waiting" in driver.ended[3].error


def test_lower_priority_numbers_run_first() -> None:
    driver = Driver(make_scheduler(max_num_seqs=1))
    for id_, priority in enumerate([5, 1, 3]):
        driver.scheduler.add(make_request(id_, priority=priority))
    driver.run()
    assert list(driver.ended) == [1, 2, 0]


def test_deadlines_end_waiting_and_running_requests() -> None:
    driver = Driver(make_scheduler(max_num_seqs=1))
    driver.scheduler.add(make_request(0, max_tokens=30, deadline=time.time() + 0.05))
    driver.scheduler.add(make_request(1, deadline=time.time() + 0.05))
    driver.scheduler.add(make_request(2))
    driver.ask()
    for key in list(driver.encoding):
        driver.deliver(key)
    driver.step()
    time.sleep(0.06)
    driver.run()
    assert [driver.ended[id_].state for id_ in range(3)] == [RequestState.EXPIRED, RequestState.EXPIRED, RequestState.DONE]
    assert driver.scheduler.pages.num_available == 64


def test_an_encoder_failure_fails_only_who_waits_for_it() -> None:
    driver = Driver(make_scheduler())
    for id_, key in enumerate(["bad", "good", "bad"]):
        driver.scheduler.add(make_request(id_, key=key))
    driver.ask()
    driver.scheduler.encode_failed("bad", "no")
    driver.encoding.remove("bad")
    driver.run()
    assert [driver.ended[id_].state for id_ in range(3)] == [RequestState.FAILED, RequestState.DONE, RequestState.FAILED]


def test_hidden_states_that_nobody_wants_any_more_are_dropped() -> None:
    driver = Driver(make_scheduler())
    driver.scheduler.add(make_request(0))
    driver.ask()
    driver.scheduler.cancel(0)
    driver.deliver("media0")
    assert driver.scheduler.take_unwanted() == ["media0"]
    driver.hidden.clear()
    driver.step()
    assert driver.scheduler.idle


def test_a_failed_step_fails_its_requests_and_forgets_unwritten_cross_kv() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request(0, key="clip"))
    scheduler.next_encodes()
    scheduler.encoded("clip")
    plan = scheduler.step()
    assert plan is not None
    scheduler.fail_step(plan, "out of memory")
    assert scheduler.take_output().finished[0].error == "out of memory"
    assert "clip" not in scheduler.pages
    assert scheduler.pages.num_free == 64


def test_encoder_work_is_asked_for_within_its_budget() -> None:
    driver = Driver(make_scheduler(encode_ahead_tokens=25))
    for id_ in range(10):
        driver.scheduler.add(make_request(id_, cross=10))
    driver.ask()
    assert len(driver.encoding) == 2
    assert len(driver.run()) == 10


def test_states_and_transitions() -> None:
    assert set(TRANSITIONS) == set(RequestState)
    for state, following in TRANSITIONS.items():
        assert state.final == (not following)
    with pytest.raises(AssertionError, match="waiting -> running"):
        make_request(0).move(RequestState.RUNNING)


EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from("abcdefgh"),
            st.integers(1, 30),
            st.integers(1, 6),
            st.integers(1, 30),
            st.integers(0, 2),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("stop"), st.integers(0, 40)),
        st.tuples(st.just("step")),
        st.tuples(st.just("step")),
        st.tuples(st.just("deliver"), st.integers(0, 10)),
        st.tuples(st.just("fail"), st.integers(0, 10)),
        st.tuples(st.just("expire"), st.integers(0, 40)),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(
    events=EVENTS,
    pages=st.integers(10, 30),
    seqs=st.integers(1, 4),
    ahead=st.integers(10, 80),
    looks_ahead=st.booleans(),
    per_round=st.integers(1, 4),
)
def test_every_request_ends_exactly_once_and_the_pool_ends_full(
    events, pages: int, seqs: int, ahead: int, looks_ahead: bool, per_round: int
) -> None:
    driver = Driver(
        make_scheduler(pages, max_num_seqs=seqs, encode_ahead_tokens=ahead),
        lambda id_, position: END if position % 13 == 0 else 5,
        looks_ahead,
        per_round,
    )
    cross_of: dict[str, int] = {}
    added = 0
    for kind, *values in events:
        if kind == "add":
            key, cross, prompt, max_tokens, priority = values
            cross = cross_of.setdefault(key, cross)  # equal keys mean equal content
            driver.scheduler.add(make_request(added, key, cross, prompt, max_tokens, priority=priority))
            added += 1
        elif kind == "cancel":
            driver.scheduler.cancel(values[0])
        elif kind == "stop":
            driver.scheduler.stop(values[0])
        elif kind == "expire":
            if request := driver.scheduler.requests.get(values[0]):
                driver.scheduler.finish(request, RequestState.EXPIRED, error="expired")
        elif kind == "step":
            driver.step()
        elif driver.encoding:
            key = driver.encoding[values[0] % len(driver.encoding)]
            if kind == "deliver":
                driver.deliver(key)
            else:
                driver.encoding.remove(key)
                driver.scheduler.encode_failed(key, "failed")
    driver.run()
    driver.step()
    driver.step()
    assert sorted(driver.ended) == list(range(added))
    assert driver.scheduler.pages.num_available == pages
    for key in list(driver.encoding):
        driver.deliver(key)
    driver.hidden -= set(driver.scheduler.take_unwanted())
    assert not driver.hidden, "hidden states are left behind"
    assert driver.scheduler.idle
