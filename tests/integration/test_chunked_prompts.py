"""Prompts that run in pieces, with results that come late: the same tokens as transformers,
whatever the pieces. Forks of running sequences, and what is read out of steps."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LOGPROB_TOLERANCE, oracle, text_rules
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.generated import Readout
from antiphon.scheduler.planning import StepBudget
from antiphon.scheduler.request import Request, RequestState

PAGE, PROMPTS = 8, 6
Case = tuple[np.ndarray, list[int], int]  # encoder input, decoder prompt, tokens to generate


def cases(vocab_size: int, start: int) -> list[Case]:
    """Decoder prompts from one token to sixty."""
    rng = np.random.default_rng(11)
    lengths = [1, 60, *rng.integers(2, 50, PROMPTS - 2)]
    return [
        (
            rng.integers(3, vocab_size - 1, 9).astype(np.int32),
            [start, *rng.integers(3, vocab_size - 1, length - 1).tolist()],
            int(rng.integers(1, 20)),
        )
        for length in lengths
    ]


@pytest.fixture(scope="module")
def engine(checkpoints: Any) -> PlainEngine:
    """Its pool is too small for all prompts at once."""
    return PlainEngine(
        checkpoints("bart")[0], max_num_seqs=4, max_model_len=96, kv_page_size=PAGE, num_kv_pages=26
    )


@pytest.fixture(scope="module")
def expected(checkpoints: Any) -> list[tuple[Case, list[int], list[float]]]:
    model = checkpoints("bart")[1]
    return [
        (case, *oracle(model, torch.tensor(case[0][None], dtype=torch.long), case[1], case[2]))
        for case in cases(model.config.vocab_size, model.config.decoder_start_token_id)
    ]


@settings(max_examples=15, deadline=None)
@given(tokens=st.integers(1, 70), prompt=st.integers(1, 70), depth=st.integers(1, 8))
def test_pieces_of_any_size_give_the_tokens_of_transformers(
    engine: PlainEngine, expected: Any, checkpoints: Any, tokens: int, prompt: int, depth: int
) -> None:
    scheduler = engine.replica.scheduler
    scheduler.planner.budget = StepBudget(tokens, prompt)
    engine.replica._look_ahead = depth - 1
    rules = text_rules(checkpoints("bart")[1])
    ids = [engine.submit(engine.request(*case, rules)) for case, _, _ in expected]
    finished = engine.run()
    for id_, (_, wanted, logprobs) in zip(ids, expected, strict=True):
        assert finished[id_].token_ids == wanted
        np.testing.assert_allclose(
            [token.logprobs[0] for token in finished[id_].logprobs],
            logprobs,
            atol=LOGPROB_TOLERANCE,
        )
    assert scheduler.pages.num_available == scheduler.pages.num_pages


def whole(engine: PlainEngine) -> None:
    """The budget and the depth that an engine has by itself."""
    engine.replica.scheduler.planner.budget = StepBudget(4096, 4096)
    engine.replica._look_ahead = 0


@pytest.mark.parametrize("depth", [1, 4])
def test_forks_share_pages_and_give_the_tokens_of_fresh_requests(
    engine: PlainEngine, checkpoints: Any, depth: int
) -> None:
    """A greedy fork goes on as its parent; a drawn one with another seed as a new request that has
    the same tokens behind it."""
    whole(engine)
    engine.replica._look_ahead = depth - 1
    rules, scheduler = text_rules(checkpoints("bart")[1]), engine.replica.scheduler
    ids, prompt, drawn = (
        np.arange(5, 14, dtype=np.int32),
        [2, 7, 8, 9, 10],
        SamplingParams(temperature=3.0, logprobs=2),
    )

    def request(params: SamplingParams = drawn, seed: int = 5, **fields: Any) -> Request:
        return engine.request(ids, prompt, 30, DecodingRules(), params=params, seed=seed, **fields)

    greedy = engine.request(ids, prompt, 30, rules)
    parents = [greedy, request()]
    for parent in parents:
        engine.submit(parent)
    while not parents[0].slot >= 0 or scheduler.batch.length[parents[1].slot] < 16:
        engine.step()
    twin = engine.request(ids, prompt, 30, rules)
    other = request(seed=6)
    for parent, child in zip(parents, (twin, other), strict=True):
        scheduler.fork(parent, child)
        assert child.state is RequestState.RUNNING
    prefix = list(other.generated)
    assert len(prefix) > 5
    finished = engine.run()
    assert scheduler.counters["forks"] >= 2
    assert finished[twin.id.number].token_ids == finished[greedy.id.number].token_ids
    fresh = request(seed=6, generated=list(prefix))
    engine.submit(fresh)
    wanted = engine.run()[fresh.id.number].token_ids
    assert finished[other.id.number].token_ids == wanted
    assert wanted[: len(prefix)] == prefix
    assert wanted != finished[parents[1].id.number].token_ids
    assert len(finished[other.id.number].logprobs) == len(wanted)
    assert scheduler.pages.num_available == scheduler.pages.num_pages


@pytest.mark.parametrize("tokens", [4, 4096])
def test_readouts_are_the_log_probabilities_of_transformers(
    engine: PlainEngine, checkpoints: Any, tokens: int
) -> None:
    whole(engine)
    engine.replica.scheduler.planner.budget = StepBudget(tokens, tokens)
    model = checkpoints("bart")[1]
    rng = np.random.default_rng(4)
    ids, prompt = rng.integers(3, 60, 9).astype(np.int32), [2, *rng.integers(3, 60, 40).tolist()]
    logits = model(
        torch.tensor(ids[None], dtype=torch.long), decoder_input_ids=torch.tensor([prompt])
    ).logits[0]
    asked = [Readout(position, int(rng.integers(0, 60))) for position in range(len(prompt))]
    request = engine.request(ids, prompt, 2, readouts=(*asked, Readout(3, 10**6)))
    engine.submit(request)
    values = engine.run()[request.id.number].readout_values
    logprobs = logits.log_softmax(-1)
    for index, (position, token_id) in enumerate(asked):
        value = values[index]
        assert value.logprob == pytest.approx(logprobs[position, token_id].item(), abs=1e-3)
        assert value.likeliest == logits[position].argmax().item()
    assert values[len(asked)].logprob == float("-inf")
