"""Step plans at random: every request ends once with the undisturbed tokens, no page is lost."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated_decoder import (
    SimulatedDecoder,
    chosen,
    generated_by,
    make_request,
    make_scheduler,
    start,
    undisturbed,
)

from antiphon.scheduler.request import Finished, Readout, Request, RequestState


class StepPlans(RuleBasedStateMachine):
    """Chunks, forks, cancellations, preemptions, failures and late results, in any order."""

    @initialize(
        pages=st.integers(12, 40),
        seqs=st.integers(1, 6),
        budget=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        lag=st.integers(0, 8),
        lanes=st.integers(1, 3),
    )
    def begin(self, pages: int, seqs: int, budget: tuple[int, int], lag: int, lanes: int) -> None:
        self.scheduler = make_scheduler(
            pages, max_num_seqs=seqs, max_batched_tokens=budget[0], max_prompt_tokens=budget[1],
            num_lanes=lanes,
        )  # fmt: skip
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
        generated = generated_by(self.scheduler, parent.slot)
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
        # A lane may wait for results, and for those that are to be preempted for it.
        patience = 3 * (self.decoder.lag + 2) * len(self.decoder.turns_missed)
        assert max(self.decoder.turns_missed) < patience, "a lane starves"
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
