"""Pools of workers grow when requests wait, and shrink again without losing any."""

import asyncio
import time
from pathlib import Path

import pytest

from antiphon import AsyncEngine, SamplingParams
from antiphon.benchmarks.chaos import Load

pytestmark = pytest.mark.usefixtures("ray_cluster")

PROMPTS = [f"in words: {number}" for number in range(700, 710)]
LONG = SamplingParams(ignore_eos=True, max_tokens=120)


def decoders(engine: AsyncEngine) -> dict[str, bool]:
    """Of the running ones: whether they take new requests."""
    assert engine.workers is not None
    members = engine.workers.members
    return {
        member.name: not member.draining
        for member in members
        if member.alive and member.role == "decoder"
    }


async def until(engine: AsyncEngine, wanted: dict[str, bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while decoders(engine) != wanted:
        assert time.monotonic() < end, decoders(engine)
        await asyncio.sleep(0.02)


def test_a_pool_grows_by_queue_depth_and_is_drained_before_it_shrinks(t5_folder: Path) -> None:
    async def run() -> None:
        options = {"max_num_seqs": 4, "num_threads": 1, "decoder_max_replicas": 2}
        async with AsyncEngine(str(t5_folder), **options) as engine:
            load = Load(engine, PROMPTS, LONG)
            await load.learn()
            serving = asyncio.create_task(load.serve(1, concurrency=16, seconds=40.0))
            await until(engine, {"decoder-0": True, "decoder-1": True}, 30.0)
            stats = await engine.workers.stats()
            while not all(counters["running"] for counters in stats):  # both get requests
                await asyncio.sleep(0.1)
                stats = await engine.workers.stats()
            await engine.workers.scale("decoder", 1)
            await until(engine, {"decoder-0": True, "decoder-1": False}, 1.0)
            await until(engine, {"decoder-0": True}, 35.0)
            await serving
            assert load.tally.is_right, (load.tally.failed, load.tally.wrong)

    asyncio.run(run())
