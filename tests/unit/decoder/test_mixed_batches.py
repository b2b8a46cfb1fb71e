"""Rows of every kind in one batch: each request gets what it gets alone, and no row throws another
out of the graph's sampler."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from plain_engine import PlainEngine
from random_examples import examples
from sampled_requests import KINDS, check_same, request

from antiphon.decoder.sampling.sampler import Sampler
from antiphon.scheduler.request import Finished

NUMBERS = 2  # of requests of each kind
Alone = dict[tuple[int, int], Finished]
CHOICES = st.tuples(st.integers(0, len(KINDS) - 1), st.integers(0, NUMBERS - 1))


@pytest.fixture(scope="module")
def folder(checkpoints: Any) -> Path:
    found: Path = checkpoints("bart")[0]
    return found


@pytest.fixture(scope="module")
def engine(folder: Path) -> PlainEngine:
    return PlainEngine(folder, max_num_seqs=4, max_model_len=16, kv_page_size=4)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Alone:
    """What each request gets with the engine for itself."""
    engine, ends = PlainEngine(folder, max_num_seqs=1, max_model_len=16, kv_page_size=4), {}
    for kind in range(len(KINDS)):
        for number in range(NUMBERS):
            id_ = engine.submit(request(engine, kind, number))
            ends[kind, number] = engine.run()[id_]
    return ends


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CHOICES, st.integers(0, 3)), min_size=1, max_size=12))
def test_every_mix_gives_each_request_what_it_gets_alone(
    engine: PlainEngine,
    alone: Alone,
    mix: list[tuple[tuple[int, int], int]],
) -> None:
    """`mix`: requests, and how many steps run before the next one comes."""
    ids = []
    for choice, steps in mix:
        ids.append((engine.submit(request(engine, *choice)), choice))
        for _ in range(steps):
            engine.step()
    engine.run()
    for id_, choice in ids:
        check_same(engine.finished[id_], alone[choice])
    engine.replica.scheduler.batch.check()


def test_preemption_keeps_log_probabilities(folder: Path, alone: Alone) -> None:
    engine = PlainEngine(folder, max_num_seqs=4, max_model_len=16, kv_page_size=2, num_kv_pages=12)
    choices = [(kind, number) for kind in range(len(KINDS)) for number in range(NUMBERS)]
    ids = [engine.submit(request(engine, *choice)) for choice in choices]
    engine.run()
    assert engine.replica.scheduler.counters["preemptions"]
    for id_, choice in zip(ids, choices, strict=True):
        check_same(engine.finished[id_], alone[choice])


def test_only_the_rows_that_ask_are_chosen_again(
    engine: PlainEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = Sampler._resampled

    def watched(self: Sampler, logits: Any, *others: Any) -> Any:
        rows.append(len(logits))
        return original(self, logits, *others)

    monkeypatch.setattr(Sampler, "_resampled", watched)
    for kind in (0, 1, 2, 4):  # three that a graph serves, and one that draws
        engine.submit(request(engine, kind, 0))
    engine.run()
    assert set(rows) == {1}
    rows.clear()
    engine.submit(request(engine, 0, 0))
    engine.submit(request(engine, 3, 0))
    engine.run()
    assert not rows


def test_a_resumed_request_does_not_know_the_log_probabilities_of_its_first_tokens(
    engine: PlainEngine, alone: Alone
) -> None:
    """Its tokens are the same; sums over all of them are not known."""
    resumed = request(engine, 4, 0)
    expected = alone[4, 0]
    resumed.generated = expected.token_ids[:2]
    engine.submit(resumed)
    end = engine.run()[resumed.id.number]
    assert end.token_ids == expected.token_ids
    assert math.isnan(end.restricted_logprob)
    assert np.isnan(end.token_logprobs[:2]).all()
    np.testing.assert_allclose(end.token_logprobs[2:], expected.token_logprobs[2:], atol=1e-3)
