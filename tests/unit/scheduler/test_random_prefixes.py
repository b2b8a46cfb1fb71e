"""Sequences with few beginnings at random: every request gives what it would give alone, and no
page is written while it is shared."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from random_examples import examples
from random_plans import RandomPlans
from simulated_decoder import WORDS, make_scheduler, text_request

from antiphon.scheduler.generated import Readout

INPUTS: list[tuple[tuple[str, int, int], ...]] = [
    (),
    (("a", 2, 4),),
    (("b", 2, 4),),
    (("a", 1, 3), ("b", 9, 5)),
    (("a", 2, 4), ("a", 12, 4)),
]


class Prefixes(RandomPlans):
    """Few beginnings, many requests without cross-attention, inputs in some of their prompts."""

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
        scheduler = make_scheduler(
            pages, max_num_seqs=seqs, max_batched_tokens=budget[0], max_prompt_tokens=budget[1],
            num_lanes=lanes, encode_ahead_tokens=room,
        )  # fmt: skip
        self.set_up(scheduler, lag)

    @rule(
        prompt=st.integers(1, 24), branch=st.sampled_from([0, 5, 12, 30]),
        inputs=st.sampled_from(INPUTS),
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
        self.submit(request, cross=0)

    @precondition(lambda self: self.running())
    @rule(index=st.integers(0, 5))
    def fork(self, index: int) -> None:
        running = self.running()
        parent = running[index % len(running)]
        number, seed = len(self.wanted), parent.seed + 100
        child, like = (
            text_request(number, parent.prompt_token_ids, parent.max_tokens, seed=seed)
            for _ in range(2)
        )
        child.inputs = like.inputs = parent.inputs
        self.fork_off(parent, child, like, cross=0)

    @invariant()
    def no_other_pages_have_owners(self) -> None:
        """As there is no cross KV."""
        if not hasattr(self, "scheduler"):
            return
        batch, pages = self.scheduler.batch, self.scheduler.pages
        owners = np.zeros(pages.num_pages, np.int64)
        for request in self.running():
            owners[batch.self_table[request.slot, : batch.num_self_pages[request.slot]]] += 1
        np.testing.assert_array_equal(owners, pages._owners)


TestPrefixes = Prefixes.TestCase
TestPrefixes.settings = examples(60, stateful_step_count=40)
