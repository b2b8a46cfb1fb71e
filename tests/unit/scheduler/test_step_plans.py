"""What plans tell a device: chunks, forks, readouts and page tables, with results that come late
and steps that fail."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated_decoder import END, SimulatedDecoder, chosen, undisturbed

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.pages import PagePool
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.request import (
    Finished,
    Media,
    Readout,
    Request,
    RequestId,
    RequestState,
)
from antiphon.scheduler.scheduler import Scheduler

PAGE, MAX_LEN = 4, 40


def make_scheduler(pages: int = 60, **changes: Any) -> Scheduler:
    limits = {
        "max_num_seqs": 6, "max_batched_tokens": 64, "max_len": MAX_LEN, "max_cross_len": 8,
        "encode_ahead_tokens": 100, "max_waiting": 1000, "page_size": PAGE,
    }  # fmt: skip
    return Scheduler(Limits(**{**limits, **changes}), PagePool(pages))


def make_request(
    number: int, prompt: int = 3, max_tokens: int = 12, key: str = "a", **fields: Any
) -> Request:
    return Request(
        RequestId("f", number), np.arange(5, 5 + prompt), (Media(key, "text", 6, None),),
        SamplingParams(), DecodingRules(stop_ids=(END,)), max_tokens, fields.pop("seed", number),
        **fields,
    )  # fmt: skip


def start(decoder: SimulatedDecoder, *requests: Request) -> None:
    for request in requests:
        decoder.scheduler.add(request)
    for command in decoder.scheduler.next_encodes():
        decoder.scheduler.encoded(command.media.key)


def run(decoder: SimulatedDecoder, steps: int = 500) -> dict[int, Finished]:
    for _ in range(steps):
        if not decoder.scheduler.requests:
            break
        start(decoder)
        decoder.step()
    assert not decoder.scheduler.requests, "not done"
    assert decoder.scheduler.pages.num_available == decoder.scheduler.pages.num_pages
    outputs = decoder.scheduler.outputs.pop()
    return {end.number: end for output in outputs for end in output.finished}


def seed_that_runs_long(prompt: int = 3) -> int:
    """Of a request that meets no END within 25 tokens."""
    for seed in range(10_000):
        if len(undisturbed(make_request(0, prompt, 25, seed=seed), ord("a"))) == 25:
            return seed
    raise AssertionError


LONG = seed_that_runs_long()


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("known", [1, 2, 5, 6])
def test_a_fork_goes_on_as_its_parent_did(lag: int, known: int) -> None:
    """The page of its last tokens is copied, those before are shared."""
    decoder = SimulatedDecoder(make_scheduler(), lag)
    scheduler, parent = decoder.scheduler, make_request(0, max_tokens=25, seed=LONG)
    start(decoder, parent)
    while parent.slot < 0 or len(_generated(scheduler, parent.slot)) < known:
        decoder.step()
    twin = make_request(1, max_tokens=25, seed=LONG)
    other = make_request(2, max_tokens=25, seed=LONG + 1)
    free = scheduler.pages.num_available
    for child in (twin, other):
        scheduler.fork(parent, child)
        assert child.state is RequestState.RUNNING
    length = 3 + known
    own_pages = -(-length // PAGE) - (length - 1) // PAGE
    assert free - scheduler.pages.num_available == 2 * own_pages
    prefix = _generated(scheduler, 0)
    wanted = undisturbed(make_request(2, max_tokens=25, seed=LONG + 1, generated=prefix), ord("a"))
    ends = run(decoder)
    assert ends[0].token_ids == ends[1].token_ids == undisturbed(parent_like(), ord("a"))
    assert ends[2].token_ids == wanted
    assert wanted[:known] == prefix
    assert scheduler.counters["forks"] == 2


def parent_like() -> Request:
    return make_request(0, max_tokens=25, seed=LONG)


def _generated(scheduler: Scheduler, slot: int) -> list[int]:
    saved = make_request(99)
    scheduler.batch.save(slot, saved)
    return saved.generated


def test_a_fork_without_room_or_with_other_settings_waits_in_line() -> None:
    decoder = SimulatedDecoder(make_scheduler(max_num_seqs=1), 1)
    parent = make_request(0, max_tokens=25, seed=LONG)
    start(decoder, parent)
    for _ in range(4):
        decoder.step()
    decoder.scheduler.fork(parent, child := make_request(1, max_tokens=25, seed=LONG))
    assert child.state is RequestState.WAITING
    prefix = list(child.generated)
    assert prefix
    ends = run(decoder)
    assert ends[1].token_ids == ends[0].token_ids
    assert decoder.scheduler.counters["forks"] == 0


def test_a_fork_that_differs_shares_only_what_it_has_in_common() -> None:
    """As a beam that goes on with another token than its parent's."""
    decoder = SimulatedDecoder(make_scheduler(), 0)
    parent = make_request(0, max_tokens=25, seed=LONG, waits_for_host=True)
    start(decoder, parent)
    for _ in range(8):
        decoder.step()
    beam = [*_generated(decoder.scheduler, 0)[:5], 77, 78]
    child = make_request(1, max_tokens=25, seed=3, generated=list(beam))
    decoder.scheduler.fork(parent, child)
    assert child.state is RequestState.RUNNING
    assert decoder.scheduler.batch.computed[child.slot] == 3 + 5
    wanted = undisturbed(make_request(1, max_tokens=25, seed=3, generated=beam), ord("a"))
    assert run(decoder)[1].token_ids == wanted


def test_forks_of_forks_before_any_of_them_has_run() -> None:
    decoder = SimulatedDecoder(make_scheduler(), 1)
    parent = make_request(0, max_tokens=25, seed=LONG)
    start(decoder, parent)
    for _ in range(5):
        decoder.step()
    scheduler = decoder.scheduler
    scheduler.fork(parent, first := make_request(1, max_tokens=25, seed=LONG))
    scheduler.fork(first, make_request(2, max_tokens=25, seed=LONG))
    scheduler.cancel(first.id)
    scheduler.fork(parent, make_request(3, max_tokens=25, seed=LONG))  # takes what `first` left
    ends = run(decoder)
    for number in (0, 2, 3):
        assert ends[number].token_ids == undisturbed(parent_like(), ord("a"))


@pytest.mark.parametrize("lag", [0, 3])
def test_a_row_that_waits_for_the_host_is_never_looked_past(lag: int) -> None:
    decoder = SimulatedDecoder(make_scheduler(), lag)
    waiting = make_request(0, max_tokens=25, seed=LONG, waits_for_host=True)
    start(decoder, waiting, make_request(1, max_tokens=25, seed=LONG))
    batch = decoder.scheduler.batch
    for _ in range(12):
        decoder.step()
        assert batch.pending[waiting.slot] <= 1
    generated = [len(_generated(decoder.scheduler, slot)) for slot in (0, 1)]
    assert (generated[0] < generated[1]) == (lag > 0), "the other one keeps its look-ahead"
    ends = run(decoder)
    assert ends[0].token_ids == ends[1].token_ids


@pytest.mark.parametrize("budget", [2, 3, 64])
def test_readouts_of_any_position_come_with_the_end(budget: int) -> None:
    """Of a prompt that runs in pieces, and of what a resumed request had generated."""
    generated = undisturbed(make_request(0, 9, 25, seed=LONG), ord("a"))[:3]
    assert END not in generated
    asked = tuple(Readout(position, 10 + position) for position in (11, 0, 4, 8))
    request = make_request(0, 9, 5, seed=LONG, readouts=asked, generated=list(generated))
    decoder = SimulatedDecoder(make_scheduler(max_batched_tokens=budget), 1)
    start(decoder, request, make_request(1, 5, 10))
    tokens = [*range(5, 14), *generated]
    values = run(decoder)[0].readout_values
    assert sorted(values) == [0, 1, 2, 3]
    for index, (position, token_id) in enumerate(asked):
        likeliest = chosen(LONG, ord("a"), tokens[: position + 1])
        assert values[index] == (-abs(likeliest - token_id), likeliest)


def test_a_readout_outside_the_known_tokens_is_refused() -> None:
    decoder = SimulatedDecoder(make_scheduler(), 0)
    start(decoder, make_request(0, 3, readouts=(Readout(3, 7),)))
    (end,) = run(decoder).values()
    assert end.state is RequestState.REFUSED
    assert "token 7 at position 3 of 3" in end.error


class StepPlans(RuleBasedStateMachine):
    """Chunks, forks, cancellations, preemptions, failures and late results, in any order."""

    @initialize(
        pages=st.integers(12, 40),
        seqs=st.integers(1, 6),
        budget=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        lag=st.integers(0, 8),
    )
    def begin(self, pages: int, seqs: int, budget: tuple[int, int], lag: int) -> None:
        self.scheduler = make_scheduler(
            pages, max_num_seqs=seqs, max_batched_tokens=budget[0], max_prompt_tokens=budget[1]
        )
        self.decoder = SimulatedDecoder(self.scheduler, lag)
        self.wanted: dict[int, list[int]] = {}
        self.readouts: dict[int, list[tuple[float, int]]] = {}
        self.ended: dict[int, Finished] = {}
        self.encoding: list[str] = []

    def running(self) -> list[Request]:
        return self.scheduler.batch.running()

    @rule(
        key=st.sampled_from("abc"), prompt=st.integers(1, 20), max_tokens=st.integers(1, 15),
        seed=st.integers(0, 5), waits=st.booleans(), priority=st.integers(0, 1),
        asked=st.none() | st.integers(0, 19),
    )  # fmt: skip
    def add(
        self, key: str, prompt: int, max_tokens: int, seed: int, waits: bool, priority: int,
        asked: int | None,
    ) -> None:  # fmt: skip
        number = len(self.wanted)
        readouts = () if asked is None or asked >= prompt else (Readout(asked, 50),)
        request = make_request(
            number, prompt, max_tokens, key, seed=seed, waits_for_host=waits, priority=priority,
            readouts=readouts,
        )  # fmt: skip
        self.wanted[number] = undisturbed(request, ord(key))
        self.readouts[number] = []
        if readouts:
            likeliest = chosen(seed, ord(key), range(5, 5 + asked + 1))
            self.readouts[number] = [(-abs(likeliest - 50), likeliest)]
        self.scheduler.add(request)

    @precondition(lambda self: self.running())
    @rule(index=st.integers(0, 5), same=st.booleans(), drop=st.integers(0, 2))
    def fork(self, index: int, same: bool, drop: int) -> None:
        """Of what a running sequence knows; or of that without its last tokens, and another."""
        parent = self.running()[index % len(self.running())]
        number, seed = len(self.wanted), parent.seed if same else parent.seed + 100
        fields = {"seed": seed, "priority": parent.priority}
        child = make_request(
            number, len(parent.prompt_token_ids), parent.max_tokens, parent.cross.key, **fields
        )
        generated = _generated(self.scheduler, parent.slot)
        if drop and len(generated) > drop:
            generated = child.generated = [*generated[:-drop], 99]
        model = make_request(
            number, len(parent.prompt_token_ids), parent.max_tokens, generated=list(generated),
            **fields,
        )  # fmt: skip
        self.wanted[number] = undisturbed(model, ord(parent.cross.key))
        self.readouts[number] = []
        self.scheduler.fork(parent, child)

    @precondition(lambda self: self.running())
    @rule(index=st.integers(0, 5))
    def cancel(self, index: int) -> None:
        self.scheduler.cancel(self.running()[index % len(self.running())].id)

    @rule(kind=st.sampled_from(["launch", "result"]))
    def break_a_step(self, kind: str) -> None:
        self.decoder.breaks.add(kind)

    @rule(count=st.integers(1, 4))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.advance()

    def advance(self) -> None:
        start(self.decoder)
        self.decoder.step()
        for output in self.scheduler.outputs.pop():
            for end in output.finished:
                assert end.number not in self.ended, "ended twice"
                self.ended[end.number] = end

    @invariant()
    def pages_are_accounted_for(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.pages.check()
            self.scheduler.batch.check()

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.decoder.breaks.clear()
        for _ in range(5000):
            if not self.scheduler.requests and not self.decoder.in_flight:
                break
            self.advance()
        self.advance()  # for the ends of those that were cancelled last
        assert sorted(self.ended) == sorted(self.wanted), "not done"
        assert self.scheduler.pages.num_available == self.scheduler.pages.num_pages
        for number, end in self.ended.items():
            wanted = self.wanted[number]
            if end.state is RequestState.DONE:
                assert end.token_ids == wanted
                assert list(end.readout_values.values()) == self.readouts[number]
            else:
                assert end.token_ids == wanted[: len(end.token_ids)]
                assert end.state in (
                    RequestState.CANCELLED,
                    RequestState.FAILED,
                    RequestState.REFUSED,
                )


TestStepPlans = StepPlans.TestCase
TestStepPlans.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
