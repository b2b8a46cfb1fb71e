"""Step plans at random: every request ends once with the undisturbed tokens, no page is lost."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from random_examples import examples
from random_plans import RandomPlans
from simulated_decoder import (
    MAX_LEN,
    chosen,
    generated_by,
    make_request,
    make_scheduler,
    undisturbed,
)

from antiphon.scheduler.drafts import DraftLimits
from antiphon.scheduler.generated import Readout
from antiphon.scheduler.prompt_lookup import LookupSizes
from antiphon.scheduler.request import Finished

DRAFTS = st.builds(
    DraftLimits,
    num_tokens=st.integers(1, 6),
    max_sequences=st.integers(1, 6),
    max_source=st.just(MAX_LEN),
    lookup=st.none() | st.just(LookupSizes(1, 3)),
)


class StepPlans(RandomPlans):
    """Requests that share cross KV; rows that wait for the host; drafts, by lookup or by a model;
    more lanes, and later results."""

    @initialize(
        pages=st.integers(12, 40),
        seqs=st.integers(1, 6),
        budget=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        lag=st.integers(0, 8),
        lanes=st.integers(1, 3),
        drafts=st.none() | DRAFTS,
    )
    def begin(
        self, pages: int, seqs: int, budget: tuple[int, int], lag: int, lanes: int,
        drafts: DraftLimits | None,
    ) -> None:  # fmt: skip
        scheduler = make_scheduler(
            pages, max_num_seqs=seqs, max_batched_tokens=budget[0], max_prompt_tokens=budget[1],
            num_lanes=1 if drafts else lanes, drafts=drafts,
        )  # fmt: skip
        self.set_up(scheduler, lag)
        self.readouts: dict[int, list[tuple[float, int]]] = {}

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
        request.lookup_ids = np.array(undisturbed(request, ord(key)))
        request.lookup_ids[::5] = 2  # seldom chosen
        if readouts:
            likeliest = chosen(seed, ord(key), range(5, 5 + asked + 1))
            self.readouts[number] = [(-abs(likeliest - 50), likeliest)]
        self.submit(request, ord(key))

    @precondition(lambda self: self.running())
    @rule(index=st.integers(0, 5), same=st.booleans(), drop=st.integers(0, 2))
    def fork(self, index: int, same: bool, drop: int) -> None:
        """Of what a running sequence knows; or of that without its last tokens, and another."""
        parent = self.running()[index % len(self.running())]
        number, seed = len(self.wanted), parent.seed if same else parent.seed + 100
        prompt, key = len(parent.prompt_token_ids), parent.cross.key
        child, like = (
            make_request(
                number, prompt, parent.max_tokens, key, seed=seed, priority=parent.priority
            )
            for _ in range(2)
        )
        generated = generated_by(self.scheduler, parent.slot)
        if drop and len(generated) > drop:
            child.generated = [*generated[:-drop], 99]
        self.fork_off(parent, child, like, ord(key))

    def check_done(self, number: int, end: Finished) -> None:
        assert list(end.readout_values.values()) == self.readouts.get(number, [])


TestStepPlans = StepPlans.TestCase
TestStepPlans.settings = examples(50, stateful_step_count=40)
