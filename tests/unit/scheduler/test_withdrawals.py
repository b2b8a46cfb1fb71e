"""Encoder work that nobody wants any more is taken back, as long as it has not begun; nothing
else is lost with it."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import PlainEngine
from random_examples import examples

from antiphon.actors.job_queue import JobQueue
from antiphon.actors.messages import EncodeJob
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.engine.async_engine import AsyncEngine
from antiphon.kv.pages import PagePool
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepResult
from antiphon.scheduler.request import Finished, Media, Request, RequestId, RequestState
from antiphon.scheduler.scheduler import Scheduler

Message = tuple[Callable[..., Any], tuple[Any, ...]]


def make_scheduler(**changes: int) -> Scheduler:
    limits = {
        "max_num_seqs": 4, "max_batched_tokens": 64, "max_len": 40, "max_cross_len": 40,
        "encode_ahead_tokens": 60, "max_waiting": 1000, "page_size": 4,
    }  # fmt: skip
    return Scheduler(Limits(**{**limits, **changes}), PagePool(64))


def make_request(id_: int, key: str, encoder: str = "0") -> Request:
    media = Media(key, "text", 10, None)
    return Request(
        name(id_),
        np.arange(2, 4),
        (media,),
        SamplingParams(),
        DecodingRules(),
        3,
        0,
        encoder=encoder,
    )


def name(number: int) -> RequestId:
    return RequestId("frontend", number)


class Wire:
    """Messages in flight between two workers. Ray delivers a caller's in order; `ordered=False`
    is worse."""

    def __init__(self, ordered: bool) -> None:
        self.ordered = ordered
        self.messages: deque[Message] = deque()

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.messages.append((function, arguments))

    def deliver(self, choice: int = 0) -> None:
        if self.messages:
            self.messages.rotate(0 if self.ordered else -(choice % len(self.messages)))
            function, arguments = self.messages.popleft()
            function(*arguments)

    def deliver_all(self) -> None:
        while self.messages:
            self.deliver()


class Encoder:
    """An encoder worker without its model: batches begin, and end later."""

    def __init__(self, batch_tokens: int, answers: Wire, system: "System") -> None:
        self.jobs, self.answers, self.system = (
            JobQueue(batch_tokens),
            answers,
            system,
        )
        self.in_flight: deque[list[EncodeJob]] = deque()
        self.begun: list[str] = []

    def withdraw(self, keys: tuple[str, ...]) -> None:
        if withdrawn := self.jobs.withdraw("decoder-0", keys):
            self.answers.send(self.system.scheduler.withdrawn, withdrawn)

    def begin(self) -> None:
        if jobs := self.jobs.next_batch():
            self.in_flight.append(jobs)
            self.begun += [job.key for job in jobs]

    def end(self, fails: bool = False) -> None:
        for job in self.in_flight.popleft() if self.in_flight else ():
            self.answers.send(self.system.failed if fails else self.system.arrive, job.key)


class System:
    """One decoder's scheduler, two encoders, and what travels between them."""

    def __init__(self, ordered: bool = True, batch_tokens: int = 20, **limits: int) -> None:
        self.scheduler = make_scheduler(**limits)
        self.asking, self.answers = [Wire(ordered), Wire(ordered)], [Wire(ordered), Wire(ordered)]
        self.encoders = [Encoder(batch_tokens, wire, self) for wire in self.answers]
        self.hidden: set[str] = set()
        self.ended: dict[int, Finished] = {}
        self.failures: set[str] = set()

    def arrive(self, key: str) -> None:
        if self.scheduler.encodes.expects(key):
            self.hidden.add(key)
        self.scheduler.encoded(key)

    def failed(self, key: str) -> None:
        self.failures.add(key)
        self.scheduler.encode_failed(key, "failed")

    def step(self) -> None:
        """As a replica's."""
        scheduler = self.scheduler
        for media, encoder in scheduler.next_encodes():
            job = EncodeJob(media.key, media.num_tokens, "decoder-0", ("frontend",))
            index = int(encoder)
            self.asking[index].send(self.encoders[index].jobs.extend, [job])
        plan = scheduler.step()
        for key in scheduler.encodes.pop_unwanted():
            self.hidden.discard(key)
        withdrawals = scheduler.encodes.pop_withdrawals()
        for encoder in {index for _, index in withdrawals}:
            keys = tuple(key for key, index in withdrawals if index == encoder)
            self.asking[int(encoder)].send(self.encoders[int(encoder)].withdraw, keys)
        if plan is not None:
            assert self.hidden >= {write.key for write in plan.cross_writes}
            scheduler.postprocess(plan, StepResult(np.full(len(plan.slots), 7)))
        for output in scheduler.outputs.pop():
            for end in output.finished:
                assert end.number not in self.ended, "ended twice"
                self.ended[end.number] = end

    def open_jobs(self) -> list[str]:
        """Keys whose answer is still to come."""
        jobs = [
            job.key for encoder in self.encoders for batch in encoder.in_flight for job in batch
        ]
        jobs += [job.key for encoder in self.encoders for job in encoder.jobs._jobs.values()]
        for wire in self.asking:
            for function, (argument,) in wire.messages:
                if function.__name__ == "extend":
                    jobs += [job.key for job in argument]
        for wire in self.answers:
            for function, (argument,) in wire.messages:
                jobs += argument if function.__name__ == "withdrawn" else [argument]
        return jobs

    def run(self) -> None:
        for _ in range(1000):
            if not self.scheduler.requests and not self.open_jobs():
                return
            self.step()
            for wire in self.asking + self.answers:
                wire.deliver()
            for encoder in self.encoders:
                encoder.begin()
                encoder.end()
        raise AssertionError("not done")


KEYS, ENCODERS = st.sampled_from("abcde"), st.integers(0, 1)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, ENCODERS),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
        st.tuples(st.sampled_from(["ask", "answer"]), ENCODERS, st.integers(0, 5)),
        st.tuples(st.sampled_from(["begin", "end", "fail"]), ENCODERS, st.just(0)),
        st.just(("step", 0, 0)),
    ),
    max_size=80,
)


@examples(400)
@given(
    events=EVENTS,
    ordered=st.booleans(),
    ahead=st.integers(10, 60),
    batch_tokens=st.integers(10, 40),
)
def test_every_request_ends_once_whatever_is_withdrawn(
    events, ordered: bool, ahead: int, batch_tokens: int
) -> None:
    system = System(ordered, batch_tokens, encode_ahead_tokens=ahead)
    scheduler, cancelled, keys = system.scheduler, set(), {}
    for kind, first, second in events:
        if kind == "add":
            keys[len(keys)] = first
            scheduler.add(make_request(len(keys) - 1, first, str(second)))
        elif kind == "cancel":
            if name(first) in scheduler.requests:
                cancelled.add(first)
            scheduler.cancel(name(first))
        elif kind == "step":
            system.step()
        elif kind == "begin":
            system.encoders[first].begin()
        elif kind in ("end", "fail"):
            system.encoders[first].end(fails=kind == "fail")
        else:
            (system.asking if kind == "ask" else system.answers)[first].deliver(second)
        jobs = system.open_jobs()
        assert len(jobs) == len(set(jobs)), "two answers to come for one key"
    system.run()
    system.step()
    assert system.ended.keys() == keys.keys()
    for id_, end in system.ended.items():
        if id_ in cancelled:
            assert end.state is RequestState.CANCELLED
        elif end.state is not RequestState.DONE:
            assert end.state is RequestState.FAILED
            assert keys[id_] in system.failures
    assert all(key in scheduler.encodes.kept for key in system.hidden)
    assert not scheduler.encodes._work
    assert scheduler.encodes.tokens == 0
    assert scheduler.idle
    assert scheduler.pages.num_available == 64


def ask_for(system: System, keys: str) -> None:
    """So far that the first encoder has them in its line."""
    for id_, key in enumerate(keys):
        system.scheduler.add(make_request(id_, key))
    system.step()
    system.asking[0].deliver_all()


def test_what_has_not_begun_never_begins() -> None:
    system = System()
    ask_for(system, "abcdef")
    encoder = system.encoders[0]
    encoder.begin()  # a and b, which fit one forward
    for id_ in range(5):
        system.scheduler.cancel(name(id_))
    system.step()
    assert len(system.asking[0].messages) == 1  # for all of them
    system.asking[0].deliver_all()
    system.run()
    assert encoder.begun == ["a", "b", "f"]
    assert system.scheduler.counters["withdrawn_encodes"] == 3
    assert system.ended[5].state is RequestState.DONE


def test_work_that_somebody_else_wants_stays() -> None:
    system = System()
    ask_for(system, "aab")
    system.scheduler.cancel(name(0))
    system.step()
    assert not system.asking[0].messages
    system.run()
    assert system.encoders[0].begun == ["a", "b"]
    assert system.ended[1].state is RequestState.DONE


def test_who_comes_while_the_withdrawal_travels_is_served() -> None:
    system = System()
    ask_for(system, "a")
    system.scheduler.cancel(name(0))
    system.step()
    system.scheduler.add(make_request(1, "a", encoder="1"))
    system.step()  # waits for the answer, whichever it is
    assert system.scheduler.requests[name(1)].state is RequestState.ENCODING
    system.asking[0].deliver_all()
    system.run()
    assert system.ended[1].state is RequestState.DONE
    assert (system.encoders[0].begun, system.encoders[1].begun) == ([], ["a"])


def test_who_leaves_and_comes_back_within_a_step_costs_no_message() -> None:
    system = System()
    ask_for(system, "a")
    system.scheduler.cancel(name(0))
    system.scheduler.add(make_request(1, "a"))
    system.step()
    assert not system.asking[0].messages
    system.run()
    assert system.encoders[0].begun == ["a"]


def test_a_withdrawal_says_nothing_about_work_that_is_still_in_line() -> None:
    """An encoder that answers is alive; but what it took out of the line was not passed over."""
    now = [0.0]
    scheduler = make_scheduler()
    scheduler = Scheduler(
        Limits(**{**vars(scheduler.limits), "encode_timeout": 60.0}), PagePool(64), lambda: now[0]
    )
    for id_, key in enumerate("ab"):
        scheduler.add(make_request(id_, key))
    scheduler.next_encodes()
    scheduler.cancel(name(1))
    assert scheduler.encodes.pop_withdrawals() == [("b", "0")]
    now[0] = 50.0
    scheduler.withdrawn(("b",))
    now[0] = 100.0
    scheduler.expire()
    assert name(0) in scheduler.requests  # counts from 50 on
    now[0] = 112.0
    scheduler.expire()
    assert name(0) not in scheduler.requests


@pytest.mark.parametrize("decoder", ["decoder-0", "decoder-1"])
def test_only_the_decoder_that_asked_withdraws(decoder: str) -> None:
    queue = JobQueue(100)
    queue.extend([EncodeJob(key, 5, "decoder-0", ("frontend",)) for key in "abc"])
    withdrawn = queue.withdraw(decoder, {"b", "z"})
    assert withdrawn == (("b",) if decoder == "decoder-0" else ())
    assert [job.key for job in queue.next_batch()] == (
        ["a", "c"] if decoder == "decoder-0" else ["a", "b", "c"]
    )


def test_a_replica_withdraws(t5_folder: Path) -> None:
    engine = PlainEngine(t5_folder)
    engine.delay_encodes = True
    requests = [engine.request(np.arange(5, 9 + i, dtype=np.int32), [0], 3) for i in range(4)]
    for request in requests:
        engine.submit(request)
    engine.step()
    assert len(engine.unencoded) == 4
    for request in requests[1:]:
        engine.replica.scheduler.cancel(request.id)
    engine.step()
    assert [media.key for media in engine.unencoded] == [requests[0].inputs[0].key]
    engine.delay_encodes = False
    ends = engine.run()
    assert [ends[request.id.number].state for request in requests] == [RequestState.DONE] + [
        RequestState.CANCELLED
    ] * 3


def test_cancelled_calls_leave_the_encoder_idle(
    t5_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 60 prompts that an encoder has queued, it encodes only those that it had begun."""

    async def run() -> int:
        engine = AsyncEngine(
            str(t5_folder), ray=False, max_encoder_batch_tokens=512, num_kv_pages=2000
        )
        await engine.start()
        runner = engine.workers._actor.encoder.runner
        encode, begun, go_on, inputs_seen = runner.encode, threading.Event(), threading.Event(), []

        def slow(inputs):
            inputs_seen.extend(inputs)
            begun.set()
            go_on.wait(20)
            return encode(inputs)

        monkeypatch.setattr(runner, "encode", slow)
        prompts = [{"prompt_token_ids": [5 + i % 60] * 200} for i in range(60)]
        calls = [asyncio.ensure_future(engine.generate(prompt)) for prompt in prompts]
        while not begun.is_set() or engine.workers.counters()["open"] < 60:
            await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        while engine.workers.counters()["open"]:
            await asyncio.sleep(0.02)
        go_on.set()
        assert (await engine.generate("12")).outputs  # behind all that was asked for
        counters = engine.workers.counters()
        assert counters["withdrawn_encodes"] + len(inputs_seen) >= counters["encodes"]
        await engine.close()
        return len(inputs_seen)

    assert asyncio.run(run()) <= 3
