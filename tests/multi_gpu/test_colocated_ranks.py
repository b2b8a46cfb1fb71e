"""An engine whose two ranks have both halves each: tokens and hidden states of one process."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from plain_engine import PlainEngine

from antiphon import AsyncEngine, SamplingParams
from antiphon.config.decoding_rules import DecodingRules

pytestmark = pytest.mark.usefixtures("ray_cluster")

PROMPTS = [f"in words: {number * 7919}" for number in range(1, 25)]
LENGTH = 40
PARAMS = SamplingParams(temperature=0.0, max_tokens=LENGTH, ignore_eos=True)


Expected = tuple[list[list[int]], list[np.ndarray]]


@pytest.fixture(scope="module")
def expected(t5_folder: Path) -> Expected:
    plain = PlainEngine(t5_folder)
    assert plain.encoder is not None
    tokenizer = AsyncEngine(str(t5_folder), device="cpu").inputs.tokenizer
    states = []
    for prompt in PROMPTS:
        ids = np.array(tokenizer(prompt).input_ids, np.int32)
        plain.submit(plain.request(ids, [0], LENGTH, DecodingRules()))
        states.append(plain.encoder.encode([ids]).hidden.numpy())
    finished = plain.run()
    return [finished[number].token_ids for number in range(len(PROMPTS))], states


@pytest.mark.parametrize("sizes", ["tensor", "pipeline"])
def test_two_ranks_of_both_halves_give_what_one_gives(
    device: str, sizes: str, t5_folder: Path, expected: Expected
) -> None:
    tokens, states = expected
    options = {"max_num_seqs": 8, "num_threads": 1, "kv_cache_memory_gib": 0.5}
    options |= {f"decoder_{sizes}_parallel_size": 2}

    async def generate(engine: AsyncEngine, prompt: str) -> list[int]:
        output = await engine.generate(prompt, PARAMS)
        return list(output.outputs[0].token_ids)

    async def scenario() -> None:
        async with AsyncEngine(
            str(t5_folder), device=device, dtype="float32", placement="colocated", **options
        ) as engine:
            processes = await engine.workers.processes()  # type: ignore[union-attr]
            assert list(processes) == ["colocated-0", "colocated-0/1"]
            for _ in range(2):  # the second time from the cache
                calls = [generate(engine, prompt) for prompt in PROMPTS]
                encodes = [engine.encode(prompt) for prompt in PROMPTS]
                both = await asyncio.gather(*calls, *encodes)
                assert both[: len(calls)] == tokens
                for actual, wanted in zip(both[len(calls) :], states, strict=True):
                    assert np.abs(actual - wanted).max() <= 1e-3 * np.abs(wanted).max()

    asyncio.run(scenario())
