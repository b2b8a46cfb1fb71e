"""Sequences with few beginnings at random: every request gives what it would give alone, and no
page is written while it is shared."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated_decoder import (
    PAGE,
    WORDS,
    SimulatedDecoder,
    generated_by,
    make_scheduler,
    start,
    text_request,
    undisturbed,
)

from antiphon.scheduler.request import Finished, Readout, RequestState


class Prefixes(RuleBasedStateMachine):
    """Few beginnings, many requests: chunks, forks, ends, preemptions, failures, late results."""

    @initialize(
        pages=st.integers(11, 30),
        seqs=st.integers(1, 5),
        budget=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        lag=st.integers(0, 4),
        lanes=st.integers(1, 2),
        room=st.integers(4, 20),
    )
    def begin(
        self, pages: int, seqs: int, budget: tuple[int, int], lag: int, lanes: int, room: int
    ) -> None:
        self.scheduler = make_scheduler(
            pages, max_num_seqs=seqs, max_batched_tokens=budget[0], max_prompt_tokens=budget[1],
            num_lanes=lanes, encode_ahead_tokens=room,
        )  # fmt: skip
        self.decoder = SimulatedDecoder(self.scheduler, lag)
        self.wanted: dict[int, list[int]] = {}
        self.ended: dict[int, Finished] = {}

    @rule(
        prompt=st.integers(1, 24), branch=st.sampled_from([0, 5, 12, 30]),
        inputs=st.sampled_from(
            [(), (("a", 2, 4),), (("b", 2, 4),), (("a", 1, 3), ("b", 9, 5)),
             (("a", 2, 4), ("a", 12, 4))]
        ),
        max_tokens=st.integers(1, 12), seed=st.integers(0, 2), asked=st.none() | st.integers(0, 19),
    )  # fmt: skip
    def add(
        self, prompt: int, branch: int, inputs: tuple[tuple[str, int, int], ...], max_tokens: int,
        seed: int, asked: int | None,
    ) -> None:  # fmt: skip
        """Prompts are alike up to `branch`."""
        tokens = WORDS[:prompt].copy()
        tokens[branch:] += 1
        inputs = tuple(part for part in inputs if part[1] + part[2] <= prompt)
        readouts = () if asked is None or asked >= prompt else (Readout(asked, 50),)
        number = len(self.wanted)
        request = text_request(number, tokens, max_tokens, inputs, seed, readouts=readouts)
        self.wanted[number] = undisturbed(request, 0)
        self.scheduler.add(request)

    @precondition(lambda self: self.scheduler.batch.running())
    @rule(index=st.integers(0, 5))
    def fork(self, index: int) -> None:
        running = self.scheduler.batch.running()
        parent = running[index % len(running)]
        number, seed = len(self.wanted), parent.seed + 100
        child, model = (
            text_request(number, parent.prompt_token_ids, parent.max_tokens, seed=seed)
            for _ in range(2)
        )
        child.inputs = model.inputs = parent.inputs
        model.generated = generated_by(self.scheduler, parent.slot)
        self.wanted[number] = undisturbed(model, 0)
        self.scheduler.fork(parent, child)

    @precondition(lambda self: self.scheduler.batch.running())
    @rule(index=st.integers(0, 5))
    def cancel(self, index: int) -> None:
        running = self.scheduler.batch.running()
        self.scheduler.cancel(running[index % len(running)].id)

    @rule(kind=st.sampled_from(["launch", "result"]))
    def break_a_step(self, kind: str) -> None:
        self.decoder.breaks.add(kind)

    @rule(count=st.integers(1, 6))
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
        """Each page of a running sequence has it as an owner; what may be written is its own."""
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.pages.check()
        batch, pages = self.scheduler.batch, self.scheduler.pages
        owners = np.zeros(pages.num_pages, np.int64)
        for request in batch.running():
            slot = request.slot
            own = batch.self_table[slot, : batch.num_self_pages[slot]]
            owners[own] += 1
        np.testing.assert_array_equal(owners, pages._owners)
        for request in batch.running():
            slot = request.slot
            written = batch.self_table[
                slot, batch.computed[slot] // PAGE : batch.num_self_pages[slot]
            ]
            assert (owners[written] == 1).all(), "a shared page is to be written"
            assert not set(written.tolist()) & set(pages._hashes), "a published page as well"

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.decoder.breaks.clear()
        for _ in range(5000):
            if not self.scheduler.requests and not self.decoder.in_flight:
                break
            self.advance()
        self.advance()
        assert sorted(self.ended) == sorted(self.wanted), "not done"
        assert self.scheduler.pages.num_available == self.scheduler.pages.num_pages
        assert self.scheduler.encodes.tokens == 0
        for number, end in self.ended.items():
            wanted = self.wanted[number]
            if end.state is RequestState.DONE:
                assert end.token_ids == wanted
            else:
                assert end.token_ids == wanted[: len(end.token_ids)]


TestPrefixes = Prefixes.TestCase
TestPrefixes.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
