"""Searches that are alike go on together, and find what each finds alone."""

from typing import Any

import numpy as np
import pytest
from plain_searches import Tokens, plain_search
from simulated_decoder import (
    END,
    SimulatedDecoder,
    candidates,
    chosen,
    make_request,
    make_scheduler,
    start,
)

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.scheduler import beams
from antiphon.scheduler.beam_branches import _placed
from antiphon.scheduler.request import Finished, Request

SEEDS = 12


def search(number: int, rules: BeamRules, max_tokens: int) -> Request:
    of_all = DecodingRules(stop_ids=(END,), beams=rules)
    return make_request(number, 5, max_tokens, seed=number, rules=of_all)


def found(request: Request) -> list[Any]:
    """By a search over whole sequences."""
    rules, prompt, cross = request.rules.beams, request.prompt_token_ids.tolist(), request.inputs[0]
    assert rules is not None

    def follow(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        return candidates(chosen(request.seed, ord(cross.key), [*prompt, *tokens]))

    return plain_search(rules, follow, request.max_tokens, lambda tokens: tokens[-1] == END, END)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each time that searches went on together: how many did, and how many were asked."""
    counts, real = list[tuple[int, int]](), beams.go_on_together

    def counted(searches: Any, *arguments: Any) -> Any:
        goes_on, survivors = real(searches, *arguments)
        counts.append((int(goes_on.sum()), len(searches)))
        return goes_on, survivors

    monkeypatch.setattr(beams, "go_on_together", counted)
    return counts


@pytest.mark.parametrize("by_whisper", [False, True])
@pytest.mark.parametrize("sizes", [(3,), (2, 4)])
def test_each_finds_what_it_finds_alone(
    sizes: tuple[int, ...], by_whisper: bool, counts: list[tuple[int, int]]
) -> None:
    decoder = SimulatedDecoder(make_scheduler(pages=400, max_num_seqs=64), lag=1)
    requests = [
        search(number, BeamRules(sizes[number % len(sizes)], 2, by_whisper), 8 + number % 3)
        for number in range(SEEDS)
    ]
    start(decoder, *requests)
    ends: dict[int, Finished] = {}
    while decoder.scheduler.requests:
        start(decoder)
        decoder.step()
        for output in decoder.scheduler.outputs.pop():
            ends |= {end.number: end for end in output.finished}
    for request in requests:
        results = ends[request.id.number].results()
        assert [(one.token_ids, one.reason, one.score) for one in results] == found(request)
    assert any(1 < gone == asked for gone, asked in counts), "all went on at once"
    assert any(gone < asked for gone, asked in counts), "of some, sequences ended"


def test_the_first_one_behind_each_stays_in_its_slot() -> None:
    slots = np.array([[7, 3, 9, 1], [2, 8, 4, 6]])
    placed, idle = _placed(slots, np.array([[1, 1, 3], [0, 0, 0]]))
    assert placed.tolist() == [[3, 7, 1], [2, 8, 4]]
    assert idle.tolist() == [[9], [6]]
