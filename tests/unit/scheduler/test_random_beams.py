"""Beam searches among other requests, at random: every search ends once with what it finds when it
is alone, and no page is lost."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from plain_searches import Found, Tokens, plain_search
from random_examples import examples
from random_plans import RandomPlans
from simulated_decoder import END, candidates, chosen, make_request, make_scheduler

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.detokenizer import SlowDecoder, TextStream
from antiphon.scheduler.request import Finished, Request

STOPS = ("a", "b", "d", "bc", "cab")


def text_of(tokens: Sequence[int]) -> str:
    """Some are two letters, of which a stop string may end with the first."""
    return "".join("abcdef"[token % 6] + "ab"[: token % 7 == 0] for token in tokens)


def new_text(params: SamplingParams) -> TextStream:
    return TextStream(SlowDecoder(text_of), tuple(params.stop), 0, include_stop=False)


def found(request: Request, cross: int) -> list[Found]:
    """What the search of `request` finds, computed with whole sequences."""
    rules, prompt = request.rules.beams, request.prompt_token_ids.tolist()
    assert rules is not None

    def follow(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        return candidates(chosen(request.seed, cross, [*prompt, *tokens]))

    def stops(tokens: Tokens) -> bool:
        return tokens[-1] == END or any(stop in text_of(tokens) for stop in request.params.stop)

    return plain_search(rules, follow, request.max_tokens, stops, END)


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
            num_lanes=lanes, new_text=new_text,
        )  # fmt: skip
        self.set_up(scheduler, lag)
        self.found: dict[int, list[Found]] = {}

    @rule(
        key=st.sampled_from("abc"), prompt=st.integers(1, 12), max_tokens=st.integers(1, 15),
        seed=st.integers(0, 5), size=st.integers(2, 4), by_whisper=st.booleans(),
        priority=st.integers(0, 1), stop=st.lists(st.sampled_from(STOPS), max_size=4),
    )  # fmt: skip
    def add_search(
        self, key: str, prompt: int, max_tokens: int, seed: int, size: int, by_whisper: bool,
        priority: int, stop: list[str],
    ) -> None:  # fmt: skip
        number = len(self.wanted)
        rules = BeamRules(size, size - 1, by_whisper)
        request = make_request(
            number, prompt, max_tokens, key, seed=seed, priority=priority,
            rules=DecodingRules(stop_ids=(END,), beams=rules), params=SamplingParams(stop=stop),
        )  # fmt: skip
        self.found[number] = found(request, ord(key))
        self.wanted[number] = self.found[number][0][0]
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
            assert ends == self.found[number]


TestRandomBeams = RandomBeams.TestCase
TestRandomBeams.settings = examples(30, stateful_step_count=40)
