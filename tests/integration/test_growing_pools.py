"""Pools of workers grow when requests wait, and shrink again without losing any."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from antiphon import AsyncEngine, SamplingParams
from antiphon.benchmarks.chaos import Load
from antiphon.config.errors import ConfigurationError

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]

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


async def both_run(engine: AsyncEngine) -> None:
    """Returns once each of two decoders has running requests."""
    assert engine.workers is not None
    while sum(1 for counters in await engine.workers.stats() if counters.get("running")) < 2:
        await asyncio.sleep(0.1)


@asynccontextmanager
async def served(folder: Path, **options: int) -> AsyncIterator[tuple[AsyncEngine, Load]]:
    """An engine with few slots under the load of 16 callers, who must all be right at the end.
    All ask for the same few prompts: what a decoder holds must not keep requests in line there."""
    options = {"max_num_seqs": 4, "num_threads": 1, **options}
    async with AsyncEngine(str(folder), **options) as engine:
        load = Load(engine, PROMPTS, LONG)
        await load.learn()
        serving = asyncio.create_task(load.serve(10**9, concurrency=16))
        try:
            yield engine, load
        finally:
            serving.cancel()
            await asyncio.wait([serving])
        assert load.tally.is_right, (load.tally.failed, load.tally.wrong)


def test_a_pool_grows_by_queue_depth(t5_folder: Path) -> None:
    async def run() -> None:
        async with served(t5_folder, decoder_max_replicas=2) as (engine, _):
            await until(engine, {"decoder-0": True, "decoder-1": True}, 60.0)
            await asyncio.wait_for(both_run(engine), 30.0)

    asyncio.run(run())


def test_a_worker_is_drained_before_a_pool_shrinks(t5_folder: Path) -> None:
    async def run() -> None:
        async with served(t5_folder, decoder_replicas=2) as (engine, load):
            await asyncio.wait_for(both_run(engine), 30.0)
            with pytest.raises(ConfigurationError, match="no workers of role 'decoders'"):
                await engine.workers.scale("decoders", 1)
            with pytest.raises(ConfigurationError, match="at least 1"):
                await engine.workers.scale("decoder", 0)
            await engine.workers.scale("decoder", 1)
            await until(engine, {"decoder-0": True, "decoder-1": False}, 2.0)
            await until(engine, {"decoder-0": True}, 40.0)
            before = load.tally.requests
            while load.tally.requests < before + 20:
                await asyncio.sleep(0.1)

    asyncio.run(run())
