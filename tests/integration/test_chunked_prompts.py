"""Prompts that run in pieces, beside decodes and with results that come late: the same tokens as
transformers, whatever the pieces."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LOGPROB_TOLERANCE, oracle, text_rules
from plain_engine import PlainEngine

from antiphon.scheduler.planning import StepBudget

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
