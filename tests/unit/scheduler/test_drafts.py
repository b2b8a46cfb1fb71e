"""Drafts of a step: who makes some, within which pages, and what becomes of those that fail."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_decoder import (
    MAX_LEN,
    PAGE,
    SimulatedDecoder,
    make_request,
    make_scheduler,
    start,
    undisturbed,
)

from antiphon.scheduler.drafts import DraftLimits
from antiphon.scheduler.prompt_lookup import NOTHING, LookupSizes
from antiphon.scheduler.request import Finished, Request, RequestState

BY_MODEL = DraftLimits(3, 4)
BY_LOOKUP = DraftLimits(3, 4, MAX_LEN, LookupSizes(1, 3))


def seeds_that_run_long(count: int) -> list[int]:
    """Of requests that meet no END within 25 tokens."""
    seeds = (
        seed
        for seed in range(10_000)
        if len(undisturbed(make_request(0, 3, 25, seed=seed), ord("a"))) == 25
    )
    return [next(seeds) for _ in range(count)]


LONG = seeds_that_run_long(4)


def requests(count: int, **fields: Any) -> list[Request]:
    """Whose text is known, but for every sixth token."""
    made = [make_request(i, 3, 25, seed=LONG[i], **fields) for i in range(count)]
    for one in made:
        one.lookup_ids = np.array(undisturbed(one, ord("a")))
        one.lookup_ids[::6] = 2
    return made


def run(decoder: SimulatedDecoder) -> dict[int, Finished]:
    for _ in range(500):
        if not decoder.scheduler.requests:
            break
        start(decoder)
        decoder.step()
    scheduler = decoder.scheduler
    assert not scheduler.requests, "not done"
    assert scheduler.pages.num_available == scheduler.pages.num_pages
    return {end.number: end for output in scheduler.outputs.pop() for end in output.finished}


def check(ends: dict[int, Finished], wanted: list[Request]) -> None:
    for request in wanted:
        like = make_request(0, 3, 25, seed=request.seed)
        assert ends[request.id.number].token_ids == undisturbed(like, ord("a"))


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("drafts", [BY_MODEL, BY_LOOKUP], ids=["model", "lookup"])
def test_drafts_save_steps(drafts: DraftLimits, lag: int) -> None:
    steps = []
    for limits in (drafts, None):
        decoder = SimulatedDecoder(make_scheduler(pages=100, drafts=limits), lag)
        made = requests(3)
        start(decoder, *made)
        check(run(decoder), made)
        steps.append(decoder.scheduler.counters["steps"])
        counters = decoder.scheduler.counters
        assert counters["tokens"] >= 75
        if limits:
            assert 0 < counters["accepted_draft_tokens"] < counters["draft_tokens"]
            assert counters["drafts"] * 3 >= counters["draft_tokens"]
    assert steps[0] < 0.75 * steps[1]


def test_no_drafts_while_more_run_and_again_when_fewer_do() -> None:
    decoder = SimulatedDecoder(make_scheduler(pages=100, drafts=DraftLimits(3, 2)), 0)
    made = requests(3)
    start(decoder, *made)
    counters = decoder.scheduler.counters
    for _ in range(8):
        decoder.step()
    assert not counters["drafts"]
    decoder.scheduler.cancel(made[0].id)
    for _ in range(3):
        decoder.step()
    assert counters["drafts"]
    check(run(decoder), made[1:])


@pytest.mark.parametrize("drafts", [BY_MODEL, BY_LOOKUP], ids=["model", "lookup"])
def test_drafts_take_no_page_that_others_need(drafts: DraftLimits) -> None:
    """With pages for exactly what all sequences come to, none is preempted."""
    pages = 1 + 3 * -(-28 // PAGE) + 1
    decoder = SimulatedDecoder(make_scheduler(pages=pages, drafts=drafts), 0)
    made = requests(3)
    start(decoder, *made)
    check(run(decoder), made)
    assert not decoder.scheduler.counters["preemptions"]
    assert decoder.scheduler.counters["drafts"]


def test_none_behind_the_last_token_that_is_allowed() -> None:
    decoder = SimulatedDecoder(make_scheduler(pages=100, drafts=BY_LOOKUP), 0)
    (request,) = requests(1)
    start(decoder, request)
    while request.state is not RequestState.DONE:
        plan = decoder.scheduler.step()
        assert plan is not None
        assert plan.kv_lens[0] < request.max_len
        decoder.scheduler.postprocess(plan, decoder.run(plan))


def test_tokens_come_with_their_places() -> None:
    decoder = SimulatedDecoder(make_scheduler(pages=100, drafts=BY_LOOKUP), 1)
    made = requests(2, streams=True)
    start(decoder, *made)
    got: dict[int, list[int]] = {0: [], 1: []}
    while decoder.scheduler.requests:
        decoder.step()
        for output in decoder.scheduler.outputs.pop():
            deltas = (output.delta_numbers, output.delta_positions, output.delta_tokens)
            for number, position, token in zip(*deltas, strict=True):
                assert position == len(got[number])
                got[number].append(token)
    for request in made:
        like = make_request(0, 3, 25, seed=request.seed)
        assert got[request.id.number] == undisturbed(like, ord("a"))


# ---------------------------------------------------------------------- where drafts are looked up


def found_one_by_one(text: list[int], tail: list[int], sizes: LookupSizes, count: int) -> list[int]:
    """The longest tail first, and its first place."""
    for size in range(sizes.longest, sizes.shortest - 1, -1):
        if size > len(tail):
            continue
        for start_ in range(len(text) - size):
            follows = text[start_ + size : start_ + size + count]
            if text[start_ : start_ + size] == tail[-size:] and follows[0] != NOTHING:
                end = follows.index(NOTHING) if NOTHING in follows else len(follows)
                return follows[:end]
    return []


@given(
    sources=st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=4),
    own=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    shortest=st.integers(1, 3), more=st.integers(0, 2), count=st.integers(1, 4),
)  # fmt: skip
def test_what_followed_before(
    sources: list[list[int]], own: list[int], shortest: int, more: int, count: int
) -> None:
    sizes, width = LookupSizes(shortest, shortest + more), max(map(len, sources)) + 1
    texts = [[*source, *[NOTHING] * (width - len(source)), *own, NOTHING] for source in sources]
    tail = ([NOTHING] * sizes.longest + own)[-sizes.longest :]
    lengths = np.full(len(texts), len(own))
    drafts, counts = sizes.look_up(np.array(texts), lengths, np.tile(tail, (len(texts), 1)), count)
    for text, found, number in zip(texts, drafts.tolist(), counts.tolist(), strict=True):
        assert found[:number] == found_one_by_one(text, own, sizes, count)
