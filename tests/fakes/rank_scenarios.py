"""A course of requests for every kind of model: mixed, staggered, cancelled, forked, preempted,
and searched with beams."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from plain_engine import PlainEngine
from sampled_requests import KINDS

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Finished, Request, RequestState

OPTIONS: dict[str, Any] = {"max_num_seqs": 4, "max_model_len": 24, "kv_page_size": 4}
PAGES = {"audio": 46, "text": 16, "decoder": 9}  # by kind; so few that some are preempted
CANCELLED, REFUSED = 3, 7  # numbers of requests
SHARED = 3  # generated tokens that a fork begins with


def requests(engine: PlainEngine, kind: str) -> Iterator[Request]:
    """One of each of `KINDS`, and one whose settings the device refuses."""
    rng = np.random.default_rng(3)
    for number, (params, rules) in enumerate(KINDS):
        length = int(rng.integers(6, 14))
        prompt = _prompt(kind, rng)
        if number == REFUSED:
            prompt[-1] = 10**6  # no such token
        yield engine.request(
            _payload(engine, kind, rng), prompt, length, rules, params=params,
            seed=int(rng.integers(1000)),
        )  # fmt: skip


def _payload(engine: PlainEngine, kind: str, rng: np.random.Generator) -> np.ndarray | None:
    if kind == "decoder":
        return None
    if kind == "audio":
        assert engine.model.audio is not None
        return rng.normal(size=int(engine.model.audio.window) // 2).astype(np.float32)
    return rng.integers(3, 60, int(rng.integers(2, 8))).astype(np.int32)


def _prompt(kind: str, rng: np.random.Generator) -> list[int]:
    if kind == "audio":
        return [61, 63, 65, 66]
    return [2, *rng.integers(3, 60, int(rng.integers(0, 7))).tolist()]


def play(engine: PlainEngine, kind: str) -> dict[int, Finished]:
    """Runs all of them; the same steps on every engine."""
    scheduler = engine.replica.scheduler
    for number, request in enumerate(requests(engine, kind)):
        engine.submit(request)
        for _ in range(number % 3):
            engine.step()
        if number == CANCELLED:
            engine.step()
            scheduler.cancel(request.id)
    engine.run()
    _fork(engine, kind)
    _search(engine, kind)
    return engine.finished


def _fork(engine: PlainEngine, kind: str) -> None:
    """A drawn sequence, and one that goes on behind its first tokens with another seed."""
    rng = np.random.default_rng(4)
    payload, prompt = _payload(engine, kind, rng), _prompt(kind, rng)
    params = SamplingParams(temperature=2.0, logprobs=2)
    parent, child = (
        engine.request(payload, prompt, 12, DecodingRules(), params=params, seed=seed)
        for seed in (5, 6)
    )
    engine.submit(parent)
    scheduler = engine.replica.scheduler
    while parent.slot < 0 or _num_known(engine, parent) < len(prompt) + SHARED:
        engine.step()
    tokens = scheduler.batch.tokens[parent.slot]
    child.generated = tokens[len(prompt) : len(prompt) + SHARED].tolist()
    scheduler.fork(parent, child)
    engine.run()


def _search(engine: PlainEngine, kind: str) -> None:
    """Beam searches by both rules, and a plain request that runs beside them."""
    rng = np.random.default_rng(5)
    for beams in (BeamRules(2, 2), None, BeamRules(3, by_whisper=True)):
        payload, prompt = _payload(engine, kind, rng), _prompt(kind, rng)[:4]
        rules = DecodingRules(suppress=(5,), no_repeat_ngram=2, beams=beams)
        params = SamplingParams(logprobs=1)
        engine.submit(engine.request(payload, prompt, 7, rules, params=params))
        engine.step()
    engine.run()


def _num_known(engine: PlainEngine, request: Request) -> int:
    """Tokens of a running sequence that the host knows."""
    batch = engine.replica.scheduler.batch
    return int(batch.length[request.slot] - batch.pending[request.slot])


def check_same_ends(
    actual: dict[int, Finished], expected: dict[int, Finished], tolerance: float = 1e-3
) -> None:
    """Tokens are equal, log-probabilities within `tolerance`. Of a cancelled one, as far as both
    came."""
    assert actual.keys() == expected.keys()
    for number, end in actual.items():
        other = expected[number]
        if end.state is other.state is RequestState.CANCELLED:
            end, other = _cut(end, other), _cut(other, end)
        assert (end.state, end.token_ids) == (other.state, other.token_ids), f"request {number}"
        assert [one.ids for one in end.logprobs] == [one.ids for one in other.logprobs]
        assert [one.ranks for one in end.logprobs] == [one.ranks for one in other.logprobs]
        for one, two in zip(end.logprobs, other.logprobs, strict=True):
            np.testing.assert_allclose(one.logprobs, two.logprobs, atol=tolerance)
        np.testing.assert_allclose(end.token_logprobs, other.token_logprobs, atol=tolerance)


def _cut(end: Finished, other: Finished) -> Finished:
    """`end` without the tokens that `other` does not have."""
    count = min(len(end.token_ids), len(other.token_ids))
    return replace(
        end,
        token_ids=end.token_ids[:count],
        token_logprobs=end.token_logprobs[:count],
        logprobs=end.logprobs[:count],
    )


def check_course(engine: PlainEngine) -> None:
    """What the scenario is for has happened."""
    ends, counters = engine.finished, engine.replica.scheduler.counters
    assert counters["preemptions"] >= 1
    assert counters["forks"] == 1
    states = {RequestState.CANCELLED: CANCELLED, RequestState.FAILED: REFUSED}
    for number, end in ends.items():
        wanted = [state for state, one in states.items() if one == number]
        assert end.state is (wanted or [RequestState.DONE])[0], (number, end.state, end.error)
