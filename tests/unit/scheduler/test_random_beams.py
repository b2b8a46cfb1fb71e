"""Beam searches among other requests, at random: every search ends once with what it finds when it
is alone, and no page is lost."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from random_plans import RandomPlans
from simulated_decoder import END, candidates, chosen, make_request, make_scheduler

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.scheduler.beam_search import BeamSearch, Continuation
from antiphon.scheduler.generated import Hypothesis
from antiphon.scheduler.request import Finished, Request


def found(request: Request, cross: int) -> list[Hypothesis]:
    """What the search of `request` finds, computed with whole sequences and without pages."""
    rules, sequences = request.rules.beams, [request.prompt_token_ids.tolist()]
    prompt = len(sequences[0])
    search = BeamSearch.of(rules, request.rules.stop_ids, request.max_tokens)
    while True:
        ids, scores = (
            np.array(parts)
            for parts in zip(
                *(candidates(chosen(request.seed, cross, tokens)) for tokens in sequences),
                strict=True,
            )
        )

        def make(one: Continuation) -> Hypothesis:
            tokens = [*sequences[one.parent][prompt:], int(ids[one.parent, one.column])]  # noqa: B023
            return Hypothesis(tokens, one.reason, one.score, one.total, [], [])

        survivors = search.advance(ids, scores, make)
        if survivors is None:
            return search.finished[: rules.num_best]
        sequences = [
            [*sequences[parent], int(ids[parent, column])]
            for parent, column in zip(*survivors, strict=True)
        ]


class RandomBeams(RandomPlans):
    """Searches and plain requests over little room, with late results, failures and lanes."""

    @initialize(
        pages=st.integers(16, 60),
        seqs=st.integers(1, 8),
        budget=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        lag=st.integers(0, 4),
        lanes=st.integers(1, 3),
    )
    def begin(self, pages: int, seqs: int, budget: tuple[int, int], lag: int, lanes: int) -> None:
        scheduler = make_scheduler(
            pages, max_num_seqs=seqs, max_batched_tokens=budget[0], max_prompt_tokens=budget[1],
            num_lanes=lanes,
        )  # fmt: skip
        self.set_up(scheduler, lag)
        self.found: dict[int, list[Hypothesis]] = {}

    @rule(
        key=st.sampled_from("abc"), prompt=st.integers(1, 12), max_tokens=st.integers(1, 15),
        seed=st.integers(0, 5), size=st.integers(2, 4), by_whisper=st.booleans(),
        priority=st.integers(0, 1),
    )  # fmt: skip
    def add_search(
        self, key: str, prompt: int, max_tokens: int, seed: int, size: int, by_whisper: bool,
        priority: int,
    ) -> None:  # fmt: skip
        number = len(self.wanted)
        rules = BeamRules(size, size - 1, by_whisper)
        request = make_request(
            number, prompt, max_tokens, key, seed=seed, priority=priority,
            rules=DecodingRules(stop_ids=(END,), beams=rules),
        )  # fmt: skip
        self.found[number] = found(request, ord(key))
        self.wanted[number] = self.found[number][0].token_ids
        self.scheduler.add(request)

    @rule(
        key=st.sampled_from("abc"), prompt=st.integers(1, 20), max_tokens=st.integers(1, 15),
        seed=st.integers(0, 5), priority=st.integers(0, 1),
    )  # fmt: skip
    def add(self, key: str, prompt: int, max_tokens: int, seed: int, priority: int) -> None:
        number = len(self.wanted)
        request = make_request(number, prompt, max_tokens, key, seed=seed, priority=priority)
        self.submit(request, ord(key))

    def check_done(self, number: int, end: Finished) -> None:
        if number in self.found:
            ends = [(one.token_ids, one.reason, one.score) for one in end.results()]
            wanted = [(one.token_ids, one.reason, one.score) for one in self.found[number]]
            assert ends == wanted


TestRandomBeams = RandomBeams.TestCase
TestRandomBeams.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
