"""The scheduler without any model: admission, preemption, cancellation, deadlines, and that every
request ends exactly once."""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_examples import examples

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.pages import PagePool
from antiphon.scheduler.intake import ASKED_AT_ONCE
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.queues import OpenQueue
from antiphon.scheduler.request import (
    TRANSITIONS,
    Finished,
    Media,
    Request,
    RequestId,
    RequestState,
)
from antiphon.scheduler.scheduler import Scheduler

PAGE, END = 4, 1


def make_scheduler(
    pages: int = 64, clock: Callable[[], float] = time.monotonic, **changes: float
) -> Scheduler:
    limits = {
        "max_num_seqs": 4,
        "max_batched_tokens": 64,
        "max_len": 40,
        "max_cross_len": 40,
        "encode_ahead_tokens": 60,
        "max_waiting": 1000,
        "page_size": PAGE,
    }
    return Scheduler(Limits(**{**limits, **changes}), PagePool(pages), clock)


def make_request(
    id_: int, key: str = "", cross: int = 10, prompt: int = 2, max_tokens: int = 5, **fields
) -> Request:
    media = Media(key or f"media{id_}", "text", cross, None)
    rules = DecodingRules(stop_ids=(END,))
    return Request(
        name(id_),
        np.arange(2, 2 + prompt),
        (media,),
        SamplingParams(),
        rules,
        max_tokens,
        seed=0,
        **fields,
    )


def name(number: int) -> RequestId:
    return RequestId("frontend", number)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Driver:
    """Plays encoder and model: every token is a function of the sequence so far, as greedy
    decoding is.

    `lag`: steps that are planned before a step's result arrives; 1 is a GPU's look-ahead.
    `breaks` (next launch or result): a step fails there.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        token: Callable[[int, int], int] = lambda id_, position: 7,
        lag: int = 0,
    ) -> None:
        self.scheduler, self.token, self.lag = scheduler, token, lag
        self.in_flight: deque[StepPlan] = deque()
        self.ended: dict[int, Finished] = {}
        self.plans: list[StepPlan] = []
        self.encoding: list[str] = []
        self.hidden: set[str] = set()  # the keys in the arena
        self.writer: dict[str, StepPlan] = {}  # of the cross KV of a key
        self.reads: dict[int, StepPlan] = {}  # by request: who wrote the cross KV that it reads
        self.breaks: set[str] = set()
        self.numbers: dict[int, int] = {}  # of requests, by their order of arrival
        # What the device knows, from plans alone.
        self.tables = np.full_like(scheduler.batch.self_table, -1)

    def ask(self) -> None:
        self.encoding += [media.key for media, _ in self.scheduler.next_encodes()]

    def deliver(self, key: str) -> None:
        self.encoding.remove(key)
        self.receive(key)

    def receive(self, key: str) -> None:
        """As a replica: what is not expected has no room."""
        encodes = self.scheduler.encodes
        if encodes.expects(key):
            self.hidden.add(key)
        self.scheduler.encoded(key)

    def step(self) -> None:
        self.ask()
        plan, encodes = self.scheduler.step(), self.scheduler.encodes
        self.hidden -= set(encodes.pop_unwanted())
        assert all(encodes.has_arrived(key) or key in encodes.kept for key in self.hidden)
        if plan is not None and self.launch(plan):
            self.in_flight.append(plan)
        if self.in_flight and (plan is None or len(self.in_flight) > self.lag):
            self.settle(self.in_flight.popleft())
        for output in self.scheduler.outputs.pop():
            for end in output.finished:
                assert end.number not in self.ended, "ended twice"
                self.ended[end.number] = end
        self.scheduler.pages.check()
        self.scheduler.batch.check()

    def launch(self, plan: StepPlan) -> bool:
        self.check(plan)
        if "launch" in self.breaks:  # before anything was read
            self.breaks.remove("launch")
            self.scheduler.fail_step(plan, "broken launch")
            return False
        for write in plan.cross_writes:
            self.writer[write.key] = plan
        for slot in (admission.slot for admission in plan.admissions):
            request = self.scheduler.batch.requests[slot]
            self.numbers[request.order] = request.id.number
            self.reads[request.id.number] = self.writer[request.cross.key]
        self.plans.append(plan)
        return True

    def settle(self, plan: StepPlan) -> None:
        if "result" in self.breaks:
            self.breaks.remove("result")
            self.scheduler.fail_step(plan, "broken result")
            open_ = [id_ for id_, writer in self.reads.items() if writer is plan]
            open_ids = {name(id_) for id_ in open_} & set(self.scheduler.requests)
            assert not open_ids, "reads what was never written"
            return
        rows = zip(plan.ids.tolist(), plan.kv_lens.tolist(), plan.samples.tolist(), strict=True)
        tokens = [
            self.token(self.numbers[order], length) if samples else -9
            for order, length, samples in rows
        ]
        self.scheduler.postprocess(plan, StepResult(np.array(tokens, np.int64)))

    def check(self, plan: StepPlan) -> None:
        """Every row has pages for all its tokens, and nobody else's."""
        for write in plan.cross_writes:
            assert write.key in self.hidden, "cross KV without hidden states"
        budget, num_decodes = self.scheduler.planner.budget, int((plan.query_lens == 1).sum())
        assert plan.num_tokens <= max(budget.tokens, num_decodes)
        assert plan.num_tokens - len(plan.slots) <= budget.prompt
        assert (np.diff(plan.query_lens > 1) >= 0).all(), "decodes come first"
        assert (plan.query_lens > 0).all()
        assert {admission.slot for admission in plan.admissions} <= set(plan.slots.tolist())
        for slots, columns, pages in self._table_changes(plan):
            self.tables[slots, columns] = pages
        own: list[int] = []
        for row, slot in enumerate(plan.slots):
            pages = self.tables[slot, : -(-plan.kv_lens[row] // PAGE)].tolist()
            assert pages == self.scheduler.batch.self_table[slot, : len(pages)].tolist()
            own += pages
        assert len(own) == len(set(own)), "two sequences write to one page"
        assert not set(own) & set(self.scheduler.pages.keyed()), "self KV over cross KV"

    @staticmethod
    def _table_changes(plan: StepPlan) -> Iterator[tuple[object, object, np.ndarray]]:
        """(slots, columns, pages) of what the plan says of page tables."""
        new = plan.new_pages
        assert set(new.slots.tolist()) <= set(plan.slots.tolist())
        assert len(set(new.slots.tolist())) == len(new.slots)
        for admission in plan.admissions:
            yield admission.slot, slice(0, len(admission.self_pages)), admission.self_pages
        yield new.slots, new.columns, new.pages

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


@pytest.mark.parametrize("overlap", [False, True])
def test_a_stop_token_ends_it(overlap: bool) -> None:
    driver = Driver(
        make_scheduler(), lambda id_, position: END if position == 4 else 9, int(overlap)
    )
    driver.scheduler.add(make_request(0, prompt=2, max_tokens=20))
    end = driver.run()[0]
    assert (end.reason, end.token_ids) == ("stop", [9, 9, END])


def test_any_depth_of_look_ahead_gives_the_same_tokens() -> None:
    """Stops and lengths fall at any place of the look-ahead; requests wait for slots and pages."""
    ends = []
    for lag in range(9):
        driver = Driver(
            make_scheduler(15), lambda id_, position: END if position == 9 + 4 * id_ else 9, lag
        )
        for i in range(4):
            driver.scheduler.add(make_request(i, f"k{i}", prompt=2 + i, max_tokens=10))
        ends.append({i: (end.reason, end.token_ids) for i, end in driver.run().items()})
    assert all(end == ends[0] for end in ends)
    assert {reason for reason, _ in ends[0].values()} == {"stop", "length"}


def test_looking_ahead_costs_one_wasted_row_at_a_stop_and_none_at_the_length() -> None:
    def rows(token: Callable[[int, int], int], overlap: bool) -> int:
        driver = Driver(make_scheduler(), token, int(overlap))
        driver.scheduler.add(make_request(0, prompt=2, max_tokens=8))
        driver.run()
        return sum(len(plan.slots) for plan in driver.plans)

    assert rows(lambda id_, position: 9, True) == rows(lambda id_, position: 9, False) == 8
    assert rows(lambda id_, position: END if position == 4 else 9, True) == 4
    assert rows(lambda id_, position: END if position == 4 else 9, False) == 3


def test_a_result_that_comes_after_its_slot_was_given_away_is_dropped() -> None:
    driver = Driver(make_scheduler(max_num_seqs=1), lambda id_, position: 10 + id_, lag=1)
    driver.scheduler.add(make_request(0, max_tokens=20))
    driver.scheduler.add(make_request(1, max_tokens=3))
    driver.ask()
    for key in list(driver.encoding):
        driver.deliver(key)
    driver.step()
    driver.step()
    driver.scheduler.cancel(name(0))  # its token is still in flight
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


@pytest.mark.parametrize("overlap", [False, True])
def test_a_full_pool_preempts_and_gives_the_same_tokens(overlap: bool) -> None:
    def token(id_: int, position: int) -> int:
        return 2 + (id_ * 31 + position * 7) % 50

    roomy, tight = (Driver(make_scheduler(pages), token, int(overlap)) for pages in (64, 15))
    for driver in (roomy, tight):
        for id_ in range(6):
            driver.scheduler.add(make_request(id_, cross=8, max_tokens=20))
        driver.run()
    assert tight.scheduler.counters["preemptions"] > 0
    assert roomy.scheduler.counters["preemptions"] == 0
    assert {id_: end.token_ids for id_, end in roomy.ended.items()} == {
        id_: end.token_ids for id_, end in tight.ended.items()
    }


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"max_tokens": 39}, ["2 prompt tokens", "max_tokens=39", "40"]),
        ({"cross": 41}, ["41 encoder tokens", "40"]),
        ({"cross": 40, "max_tokens": 30}, ["18 KV pages", "pool has 16"]),
    ],
)
def test_what_can_never_fit_is_refused_with_the_numbers(
    fields: dict[str, int], numbers: list[str]
) -> None:
    driver = Driver(make_scheduler(16))
    driver.scheduler.add(make_request(0, **fields))
    driver.step()
    end = driver.ended[0]
    assert end.state is RequestState.REFUSED
    assert all(number in end.error for number in numbers), end.error


def test_a_full_queue_turns_away() -> None:
    driver = Driver(make_scheduler(max_waiting=2, max_num_seqs=1))
    for id_ in range(5):
        driver.scheduler.add(make_request(id_))
    driver.step()
    assert [end.state for end in driver.ended.values()] == [RequestState.TURNED_AWAY] * 2
    assert "2 requests are waiting" in driver.ended[3].error


def test_lower_priority_numbers_run_first() -> None:
    driver = Driver(make_scheduler(max_num_seqs=1))
    for id_, priority in enumerate([5, 1, 3]):
        driver.scheduler.add(make_request(id_, priority=priority))
    driver.run()
    assert list(driver.ended) == [1, 2, 0]


def test_deadlines_end_waiting_and_running_requests() -> None:
    clock = Clock()
    driver = Driver(make_scheduler(clock=clock, max_num_seqs=1))
    driver.scheduler.add(make_request(0, max_tokens=30, timeout=0.05))
    driver.scheduler.add(make_request(1, timeout=0.05))
    driver.scheduler.add(make_request(2))
    driver.ask()
    for key in list(driver.encoding):
        driver.deliver(key)
    driver.step()
    clock.now += 0.06
    driver.run()
    assert [driver.ended[id_].state for id_ in range(3)] == [
        RequestState.EXPIRED,
        RequestState.EXPIRED,
        RequestState.DONE,
    ]
    assert driver.scheduler.pages.num_available == 64


def test_an_encoder_failure_fails_only_who_waits_for_it() -> None:
    driver = Driver(make_scheduler())
    for id_, key in enumerate(["bad", "good", "bad"]):
        driver.scheduler.add(make_request(id_, key=key))
    driver.ask()
    driver.scheduler.encode_failed("bad", "no")
    driver.encoding.remove("bad")
    driver.run()
    assert [driver.ended[id_].state for id_ in range(3)] == [
        RequestState.FAILED,
        RequestState.DONE,
        RequestState.FAILED,
    ]


def test_hidden_states_that_nobody_wants_any_more_are_kept_until_others_need_the_room() -> None:
    driver = Driver(make_scheduler(encode_ahead_tokens=15))
    driver.scheduler.add(make_request(0))
    driver.ask()
    driver.scheduler.cancel(name(0))
    driver.deliver("media0")
    assert driver.scheduler.encodes.pop_unwanted() == []
    driver.step()
    assert driver.scheduler.idle
    driver.scheduler.add(make_request(1, "media0"))
    driver.step()
    assert not driver.encoding
    driver.run()
    driver.scheduler.add(make_request(2, "other"))
    driver.ask()
    assert driver.encoding == ["other"]
    assert driver.scheduler.encodes.pop_unwanted() == ["media0"]


def test_a_failed_step_fails_its_requests_and_forgets_unwritten_cross_kv() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request(0, key="clip"))
    scheduler.next_encodes()
    scheduler.encoded("clip")
    plan = scheduler.step()
    assert plan is not None
    scheduler.fail_step(plan, "out of memory")
    assert scheduler.outputs.pop()[0].finished[0].error == "out of memory"
    assert "clip" not in scheduler.pages
    assert scheduler.pages.num_free == 64


def test_encoder_work_is_asked_for_within_its_budget() -> None:
    driver = Driver(make_scheduler(encode_ahead_tokens=25))
    for id_ in range(10):
        driver.scheduler.add(make_request(id_, cross=10))
    driver.ask()
    assert len(driver.encoding) == 2
    assert len(driver.run()) == 10


def test_an_encoder_begins_before_all_is_asked_for() -> None:
    scheduler = make_scheduler(encode_ahead_tokens=10_000, max_waiting=1000)
    for id_ in range(ASKED_AT_ONCE + 8):
        scheduler.add(make_request(id_, cross=10))
    assert len(scheduler.next_encodes()) == ASKED_AT_ONCE
    assert not scheduler.idle
    assert len(scheduler.next_encodes()) == 8
    assert scheduler.idle


def test_states_and_transitions() -> None:
    assert set(TRANSITIONS) == set(RequestState)
    for state, following in TRANSITIONS.items():
        assert state.final == (not following)
    with pytest.raises(AssertionError, match="waiting -> running"):
        make_request(0).move(RequestState.RUNNING)


def test_a_stop_under_look_ahead_does_not_hang_a_pool_that_runs_short_later() -> None:
    """A slot whose owner stopped had a token pending; nobody is to wait for it."""
    driver = Driver(
        make_scheduler(14), lambda id_, position: END if (id_, position) == (0, 6) else 9, lag=1
    )
    for id_ in range(3):
        driver.scheduler.add(make_request(id_, cross=4, max_tokens=30))
    ends = driver.run(200)
    assert [ends[id_].reason for id_ in range(3)] == ["stop", "length", "length"]
    assert driver.scheduler.counters["preemptions"] > 0


def test_who_shares_cross_kv_that_was_never_written_fails_with_its_writer() -> None:
    driver = Driver(make_scheduler(), lag=1)
    driver.scheduler.add(make_request(0, "clip", max_tokens=20))
    driver.ask()
    driver.deliver("clip")
    driver.step()
    driver.scheduler.add(make_request(1, "clip", max_tokens=20))
    driver.scheduler.add(make_request(2, "other", max_tokens=20))
    driver.breaks = {"result"}
    driver.step()
    assert {end.number: end.state for end in driver.ended.values()} == dict.fromkeys(
        (0, 1), RequestState.FAILED
    )
    assert "clip" not in driver.scheduler.pages
    assert driver.run()[2].state is RequestState.DONE


def test_hidden_states_that_come_twice_or_too_late_change_nothing() -> None:
    driver = Driver(make_scheduler())
    scheduler = driver.scheduler
    scheduler.add(make_request(0, "clip"))
    driver.ask()
    driver.deliver("clip")
    scheduler.encoded("clip")  # before it is written
    scheduler.encode_failed("clip", "an old complaint")
    assert scheduler.encodes.pop_unwanted() == []
    driver.run()
    scheduler.encoded("clip")  # after
    scheduler.encoded("nobody's")
    scheduler.encode_failed("nobody's", "no")
    assert not scheduler.encodes.expects("clip")
    assert not scheduler.encodes.expects("nobody's")
    assert scheduler.encodes.pop_unwanted() == []
    assert driver.ended[0].state is RequestState.DONE


def test_a_request_that_comes_twice_is_taken_once() -> None:
    driver = Driver(make_scheduler())
    request = make_request(0)
    for _ in range(2):
        driver.scheduler.add(request)
    assert driver.run()[0].state is RequestState.DONE


def test_lost_hidden_states_fail_who_waits_and_free_their_budget() -> None:
    """What an encoder has passed over is lost; what is still in its line may take as long as it
    takes."""
    clock = Clock()
    driver = Driver(make_scheduler(clock=clock, encode_timeout=60, encode_ahead_tokens=30))
    scheduler = driver.scheduler
    for id_ in range(4):
        scheduler.add(make_request(id_, cross=10, encoder="encoder-5"))
    driver.ask()
    assert driver.encoding == ["media0", "media1", "media2"]
    for _ in range(5):  # minutes of another decoder's work come first
        clock.now += 50
        scheduler.encodes._answers.note_life("encoder-5", clock.now)  # before any of these
        scheduler.expire()
    assert not driver.ended
    driver.deliver("media1")
    clock.now += 55
    driver.step()
    assert scheduler.requests.keys() >= {name(0), name(2)}
    clock.now += 4
    driver.deliver("media2")
    clock.now += 2
    driver.step()
    lost = driver.ended[0]
    assert lost.state is RequestState.FAILED
    assert "encoder-5 sent no hidden states within 60 s" in lost.error
    driver.encoding.remove("media0")
    driver.run()
    assert {driver.ended[id_].state for id_ in (1, 2, 3)} == {RequestState.DONE}
    assert scheduler.encodes.tokens == 0
    assert not scheduler.encodes.expects("media0")  # after all


def test_a_silent_encoder_fails_all_that_it_was_asked_for() -> None:
    clock = Clock()
    driver = Driver(make_scheduler(clock=clock, encode_timeout=60))
    for id_ in range(3):
        driver.scheduler.add(make_request(id_))
    driver.ask()
    clock.now += 61
    driver.step()
    assert [end.state for end in driver.ended.values()] == [RequestState.FAILED] * 3


def test_requests_that_have_ended_leave_no_memory_behind() -> None:
    """Behind one that keeps the line waiting, thousands come and are cancelled."""
    driver = Driver(make_scheduler(encode_ahead_tokens=10, max_waiting=10_000))
    scheduler = driver.scheduler
    scheduler.add(make_request(0, max_tokens=30, timeout=1e6))
    scheduler.add(make_request(1, timeout=1e6))
    driver.ask()
    sounds = []
    for id_ in range(2, 3000):
        request = make_request(id_, timeout=1e5)
        sound = np.zeros(4)
        sounds.append(weakref.ref(sound))
        request.inputs = (replace(request.inputs[0], payload=sound),)
        scheduler.add(request)
        scheduler.cancel(name(id_))
    scheduler.outputs.pop()
    del request, sound
    assert not any(sound() is not None for sound in sounds)
    assert len(scheduler._deadlines._heap) < 40
    (level,) = scheduler.intake._waiting._levels.values()
    assert len(level._turns) < 40
    (caller,) = level._callers.values()
    assert len(caller.requests._heap) < 40
    driver.run()


@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "push", "discard", "first"]), st.integers(0, 30)),
        max_size=200,
    )
)
def test_a_queue_is_a_sorted_list_that_anything_can_leave(events: list[tuple[str, int]]) -> None:
    queue: OpenQueue[tuple[int], str] = OpenQueue()
    values: dict[tuple[int], str] = {}
    for kind, number in events:
        if kind == "push":
            queue.push((number,), str(number))
            values[(number,)] = str(number)
        elif kind == "discard":
            queue.discard((number,))
            values.pop((number,), None)
        else:
            assert queue.first() == (values[min(values)] if values else None)
        assert len(queue) == len(values)


KEYS, IDS = st.sampled_from("abcdefgh"), st.integers(0, 40)
STEP = st.tuples(st.just("step"))
ADD = st.just("add")
NUMBERS = [st.integers(1, 30), st.integers(1, 6), st.integers(1, 30), st.integers(0, 2)]
NUMBERS_OF_LONG_OUTPUTS = [st.integers(1, 4), st.integers(1, 2), st.integers(15, 30), st.just(0)]
EVENTS = st.lists(
    st.one_of(
        # media key, encoder tokens, prompt tokens, max_tokens, priority
        st.tuples(ADD, KEYS, *NUMBERS),
        st.tuples(ADD, KEYS, *NUMBERS_OF_LONG_OUTPUTS),
        st.tuples(st.sampled_from(["cancel", "stop", "expire"]), IDS),
        st.tuples(st.sampled_from(["deliver", "deliver", "fail"]), st.integers(0, 10)),
        st.tuples(st.just("break"), st.sampled_from(["launch", "result"])),
        STEP, STEP, STEP,
    ),
    max_size=120,
)  # fmt: skip


def happen(driver: Driver, events) -> list[Request]:
    """Acts on the events in order. Returns the requests that were added."""
    scheduler = driver.scheduler
    cross_of: dict[str, int] = {}
    requests: list[Request] = []
    for kind, *values in events:
        if kind == "add":
            key, cross, prompt, max_tokens, priority = values
            cross = cross_of.setdefault(key, cross)  # equal keys mean equal content
            requests.append(
                make_request(len(requests), key, cross, prompt, max_tokens, priority=priority)
            )
            scheduler.add(requests[-1])
        elif kind == "cancel":
            scheduler.cancel(name(values[0]))
        elif kind == "stop":
            scheduler.stop(name(values[0]))
        elif kind == "expire":
            if request := scheduler.requests.get(name(values[0])):
                scheduler.finish(request, RequestState.EXPIRED, error="expired")
        elif kind == "step":
            driver.step()
        elif kind == "break":
            driver.breaks.add(values[0])
        elif driver.encoding:
            key = driver.encoding[values[0] % len(driver.encoding)]
            if kind == "deliver":
                driver.deliver(key)
            else:
                driver.encoding.remove(key)
                scheduler.encode_failed(key, "failed")
    return requests


@examples(300)
@given(
    events=EVENTS,
    pages=st.integers(6, 30),
    seqs=st.integers(1, 6),
    ahead=st.integers(10, 80),
    lag=st.integers(0, 8),
    budget=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    stop_every=st.integers(2, 25),
)
def test_every_request_ends_exactly_once_and_the_pool_ends_full(
    events, pages: int, seqs: int, ahead: int, lag: int, budget: tuple[int, int], stop_every: int
) -> None:
    """Pools that run short at any moment, prompts in pieces, results that come steps later, stops,
    lengths, cancels, deadlines and failures of encoders and steps, in any order: no hang, nothing
    lost, same tokens."""

    def token(id_: int, position: int) -> int:
        return END if (position + 3 * id_) % stop_every == 0 else 5 + (7 * id_ + position) % 50

    limits = {"max_batched_tokens": budget[0], "max_prompt_tokens": budget[1]}
    driver = Driver(
        make_scheduler(pages, max_num_seqs=seqs, encode_ahead_tokens=ahead, **limits), token, lag
    )
    scheduler = driver.scheduler
    requests = happen(driver, events)
    # One in line always gets on: a step for each of its tokens, and the steps that results take.
    steps = sum(len(request.prompt_token_ids) + request.max_tokens + 3 for request in requests)
    driver.run(100 + 2 * (lag + 2) * steps)
    for _ in range(lag + 2):
        driver.step()
    assert sorted(driver.ended) == list(range(len(requests)))
    assert scheduler.pages.num_available == pages
    for key in list(driver.encoding):
        driver.deliver(key)
    driver.hidden -= set(scheduler.encodes.pop_unwanted())
    assert len(driver.hidden) == len(scheduler.encodes.kept), "hidden states are left behind"
    assert all(key in scheduler.encodes.kept for key in driver.hidden)
    assert scheduler.encodes.tokens == 0
    assert scheduler.idle
    for request in requests:
        number = request.id.number
        end, prompt = driver.ended[number], len(request.prompt_token_ids)
        wanted = [token(number, position) for position in range(prompt, request.max_len)]
        if END in wanted:
            wanted = wanted[: wanted.index(END) + 1]
        if end.state is RequestState.DONE and end.reason == "length":
            assert end.token_ids == wanted
            assert END not in wanted[:-1]
        else:
            assert end.token_ids == wanted[: len(end.token_ids)]
