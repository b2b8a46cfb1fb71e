"""Replicas of several processes over Ray: the tokens of one process, also after a rank's death."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine

from antiphon import AsyncEngine, SamplingParams
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import ConfigurationError

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]

NUMBERS = [int(number) for number in np.random.default_rng(6).integers(1, 1_000_000, 20)]
PROMPTS = [f"in words: {number}" for number in NUMBERS]
PARAMS = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)


@pytest.fixture(scope="module")
def expected(t5_folder: Path) -> list[list[int]]:
    plain = PlainEngine(t5_folder)
    tokenizer = AsyncEngine(str(t5_folder)).inputs.tokenizer
    for prompt in PROMPTS:
        ids = np.array(tokenizer(prompt).input_ids, np.int32)
        plain.submit(plain.request(ids, [0], 60, DecodingRules()))
    finished = plain.run()
    return [finished[number].token_ids for number in range(len(PROMPTS))]


@pytest.mark.parametrize(
    ("layout", "victims"),
    [
        ({"tensor_parallel_size": 2}, ["decoder-0/1", "encoder-0/1"]),
        ({"tensor_parallel_size": 2, "placement": "colocated"}, ["colocated-0/1"]),
        (
            {
                "decoder_tensor_parallel_size": 2,
                "decoder_pipeline_parallel_size": 2,
                "encoder_tensor_parallel_size": 2,
                "encoder_tp_mode": "data",
            },
            ["decoder-0/1", "encoder-0/1"],
        ),
    ],
    ids=["tensor", "colocated", "tensor and pipeline"],
)
def test_ranks_give_the_tokens_of_one_process_also_when_one_dies(
    layout: dict[str, Any], victims: list[str], t5_folder: Path, expected: list[list[int]]
) -> None:
    """A follower of each half is killed while requests run."""

    async def generate(engine: AsyncEngine, prompt: str) -> list[int]:
        output = await engine.generate(prompt, PARAMS)
        return list(output.outputs[0].token_ids)

    async def scenario() -> None:
        options = {"kv_page_size": 4, "max_num_seqs": 8, "num_threads": 1}
        async with AsyncEngine(str(t5_folder), device="cpu", **options, **layout) as engine:
            calls = [generate(engine, prompt) for prompt in PROMPTS]
            assert await asyncio.gather(*calls) == expected
            for victim in victims:
                before = await engine.workers.processes()  # type: ignore[union-attr]
                tasks = [asyncio.create_task(generate(engine, prompt)) for prompt in PROMPTS]
                await asyncio.sleep(0.2)
                os.kill(before[victim].pid, signal.SIGKILL)
                assert await asyncio.gather(*tasks) == expected
                after = await engine.workers.processes()  # type: ignore[union-attr]
                gone = [name for name, spot in before.items() if after.get(name) != spot]
                half = victim.partition("/")[0]
                assert gone == [name for name in before if name.partition("/")[0] == half]
            pids = [spot.pid for spot in after.values()]
        for pid in pids:
            assert not is_running(pid), "a rank outlives its engine"

    asyncio.run(scenario())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_more_ranks_than_heads_are_refused_before_anything_starts(t5_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="heads of attention, and each rank needs one"):
        AsyncEngine(str(t5_folder), decoder_tensor_parallel_size=64)
