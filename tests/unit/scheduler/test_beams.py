"""Beam searches in a scheduler: room, refusals, rows that wait, steps that fail."""

import itertools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulated_decoder import END, SimulatedDecoder, make_request, make_scheduler, start

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.pages import PagePool
from antiphon.scheduler.request import Finished, Request, RequestState
from antiphon.scheduler.scheduler import Scheduler

LONG = 4  # a seed whose sequences take long to end


def search(number: int, size: int, max_tokens: int = 12, **fields: Any) -> Request:
    rules = DecodingRules(stop_ids=(END,), beams=BeamRules(size, size))
    return make_request(number, max_tokens=max_tokens, rules=rules, **fields)


def run(decoder: SimulatedDecoder, *requests: Request) -> dict[int, Finished]:
    for request in requests:
        decoder.scheduler.add(request)
    ends: dict[int, Finished] = {}
    for _ in range(500):
        start(decoder)
        decoder.step()
        for output in decoder.scheduler.outputs.pop():
            ends |= {end.number: end for end in output.finished}
        if not decoder.scheduler.requests:
            return ends
    raise AssertionError("not done")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_num_seqs": 3}, "beam_size=4 is over the 3 sequences of a step"),
        ({"max_batched_tokens": 3}, "beam_size=4 is over the 3 sequences of a step"),
        # 2 pages of cross KV; 15 tokens, 4 to a page, for each beam
        ({"pages": 17}, "needs 18 KV pages .* for each of 4 beams.*has 17: .*lower beam_size"),
    ],
)
def test_a_search_that_never_has_room_is_refused(limits: dict[str, int], message: str) -> None:
    scheduler = make_scheduler(**limits)
    scheduler.add(search(0, size=4))
    ((end,),) = (output.finished for output in scheduler.outputs.pop())
    assert end.state is RequestState.REFUSED
    assert re.search(message, end.error or ""), end.error


def test_stop_strings_without_a_tokenizer_are_refused() -> None:
    scheduler, request = make_scheduler(), search(0, size=2, params=SamplingParams(stop="x"))
    scheduler.add(request)
    ((end,),) = (output.finished for output in scheduler.outputs.pop())
    assert end.state is RequestState.REFUSED
    assert "no tokenizer is here" in (end.error or "")


def test_a_pool_for_one_search_serves_many_of_them() -> None:
    decoder = SimulatedDecoder(make_scheduler(pages=18, max_num_seqs=16), lag=2)
    ends = run(decoder, *(search(number, size=4, seed=3) for number in range(5)))
    alone = run(SimulatedDecoder(make_scheduler(), lag=0), search(0, size=4, seed=3))
    assert all(end.state is RequestState.DONE for end in ends.values())
    for end in ends.values():
        results = [(one.token_ids, one.score) for one in end.results()]
        assert results == [(one.token_ids, one.score) for one in alone[0].results()]


def test_other_rows_are_looked_past_while_a_search_waits() -> None:
    decoder = SimulatedDecoder(make_scheduler(), lag=3)
    plain = make_request(0, max_tokens=25, seed=LONG)
    start(decoder, plain, found := search(1, size=3, seed=LONG))
    batch, most = decoder.scheduler.batch, {plain: 0, found: 0}
    for _ in range(8):
        start(decoder)
        decoder.step()
        for request in most:
            if request.slot >= 0:
                pending = int(batch.pending[batch.slots_of(request)].max())
                most[request] = max(most[request], pending)
    assert most == {plain: 3, found: 1}


def test_a_branch_without_pages_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a slot had lost its page, which another request took meanwhile."""
    decoder = SimulatedDecoder(make_scheduler(), lag=0)
    alone = run(SimulatedDecoder(make_scheduler(), lag=0), search(0, size=3, seed=LONG))
    pages, beams = decoder.scheduler.pages, decoder.scheduler.residency.beams
    settle, calls, taken = beams.settle, itertools.count(), [False]
    available = PagePool.num_available.fget
    assert available is not None

    def settle_with_none_left(*step: Any) -> Any:
        taken[0] = next(calls) == 3
        outcomes = settle(*step)
        taken[0] = False
        return outcomes

    monkeypatch.setattr(beams, "settle", settle_with_none_left)
    none_left = property(lambda pool: 0 if taken[0] and pool is pages else available(pool))
    monkeypatch.setattr(PagePool, "num_available", none_left)
    (end,) = run(decoder, search(0, size=3, seed=LONG)).values()
    assert decoder.scheduler.counters["preemptions"] == 1
    assert replace(end, metrics=alone[0].metrics) == alone[0]
    assert pages.num_available == pages.num_pages


@pytest.mark.parametrize("kind", ["launch", "result"])
def test_a_step_that_fails_ends_a_search_once(kind: str) -> None:
    decoder = SimulatedDecoder(make_scheduler(), lag=1)
    start(decoder, search(0, size=3, seed=LONG))
    for _ in range(3):
        start(decoder)
        decoder.step()
    decoder.breaks.add(kind)
    (end,) = run(decoder).values()
    assert (end.state, end.token_ids) == (RequestState.FAILED, [])
    assert decoder.scheduler.pages.num_available == decoder.scheduler.pages.num_pages


def test_where_every_token_is_barred_the_request_fails() -> None:
    scheduler: Scheduler = make_scheduler()
    decoder = SimulatedDecoder(scheduler, lag=0)
    choose = decoder._candidates

    def barred(*args: Any) -> Any:
        candidates = choose(*args)
        return replace(candidates, scores=np.full_like(candidates.scores, np.nan))

    decoder._candidates = barred  # type: ignore[method-assign]
    (end,) = run(decoder, search(0, size=2)).values()
    assert (end.state, end.error) == (RequestState.FAILED, "its rules bar every token")


def test_a_search_counts_as_many_sequences_as_it_may_run() -> None:
    """For fair shares between callers, and for routing."""
    scheduler = make_scheduler()
    greedy, beams = make_request(0), search(1, size=4)
    assert beams.cost - beams.encoder_tokens == 4 * (greedy.cost - greedy.encoder_tokens)
    scheduler.add(greedy)
    scheduler.add(beams)
    assert (scheduler.load()["open"], scheduler.load()["slots"]) == (2, 5)
