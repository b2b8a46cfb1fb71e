"""An encoder pool and a decoder pool of different sizes: the tokens of one process."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from plain_engine import PlainEngine

from antiphon import AsyncEngine, SamplingParams
from antiphon.config.decoding_rules import DecodingRules

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]

NUMBERS = [int(number) for number in np.random.default_rng(5).integers(1, 1_000_000, 40)]
OPTIONS = {"max_num_seqs": 6, "kv_page_size": 4, "num_kv_pages": 60, "encode_ahead_tokens": 80}


def texts() -> list[str]:
    return [f"in words: {number}" for number in [*NUMBERS, *NUMBERS[:10]]]


@pytest.fixture(scope="module")
def expected(t5_folder: Path) -> list[list[int]]:
    plain = PlainEngine(t5_folder)
    tokenizer = AsyncEngine(str(t5_folder)).inputs.tokenizer
    ids = [
        plain.submit(
            plain.request(
                np.array(tokenizer(text).input_ids, np.int32), [0], 60, DecodingRules(stop_ids=(1,))
            )
        )
        for text in texts()
    ]
    finished = plain.run()
    return [finished[id_].token_ids for id_ in ids]


@pytest.mark.parametrize(("encoders", "decoders"), [(2, 1), (1, 2)])
def test_pools_of_different_sizes_give_the_tokens_of_one_process(
    encoders: int, decoders: int, t5_folder: Path, expected: list[list[int]]
) -> None:
    """Requests come one by one, some are cancelled, and pages run short."""

    async def ask(engine: AsyncEngine, number: int) -> list[int]:
        await asyncio.sleep(0.01 * number)
        output = await engine.generate(texts()[number], SamplingParams(temperature=0.0))
        return output.outputs[0].token_ids

    async def scenario() -> tuple[list[list[int]], dict[str, int]]:
        pools = {"encoder_replicas": encoders, "decoder_replicas": decoders}
        engine = AsyncEngine(str(t5_folder), placement="disaggregated", **pools, **OPTIONS)
        async with engine:
            tasks = [asyncio.create_task(ask(engine, number)) for number in range(len(texts()))]
            await asyncio.sleep(0.3)
            for task in tasks[7::9]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            return results, await engine.stats()

    results, stats = asyncio.run(scenario())
    ended = [i for i, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(ended) >= len(texts()) - 6
    assert [results[i] for i in ended] == [expected[i] for i in ended]
    assert all(isinstance(r, list | asyncio.CancelledError) for r in results), results
    assert stats["encodes"] >= len(NUMBERS) - 6
    assert stats["states_in_place"] >= stats["encodes"] // 2, "written by the encoders themselves"
