"""The engine as users run it, through Ray: offline throughput, and latency with a fixed number of requests under way."""

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from antiphon.actors.engine import AsyncEngine
from antiphon.client.bench.report import Row
from antiphon.config.sampling import SamplingParams

SEED = 17
VARIETY = 1 << 17  # requests before an input comes again: each is a window into one long random sequence, moved by one


@dataclass(frozen=True)
class Load:
    """`input_size`: seconds of sound, or tokens of text."""

    requests: int
    input_size: float
    output_tokens: int


_serials = itertools.count(1)


class Requests:
    """Prompts that never repeat; random sound or token ids."""

    def __init__(self, engine: AsyncEngine, load: Load) -> None:
        self._audio = engine.inputs.audio
        self._params = SamplingParams(max_tokens=load.output_tokens, ignore_eos=True)
        self._engine = engine
        rng = np.random.default_rng(SEED)
        if self._audio is not None:
            self._size = int(load.input_size * self._audio.sampling_rate)
            self._sequence = (rng.standard_normal(self._size + VARIETY) * 0.1).astype(np.float32)
        else:
            self._size = int(load.input_size)
            self._sequence = rng.integers(3, engine.model.encoder.vocab_size, self._size + VARIETY).astype(np.int32)

    def prompt(self) -> Any:
        first = next(_serials) % VARIETY
        array = self._sequence[first : first + self._size]
        if self._audio is None:
            return {"prompt_token_ids": array.tolist()}
        start = self._engine.model.token_id("decoder_start_token_id")
        prompt = [start, start + 1, start + 2, self._engine.inputs.whisper.no_timestamps_id]  # type: ignore[operator, union-attr]
        return {"prompt_token_ids": prompt, "multi_modal_data": {"audio": (array, self._audio.sampling_rate)}}

    async def one(self) -> float:
        """Seconds that one request took."""
        prompt = self.prompt()
        began = time.perf_counter()
        output = await self._engine.generate(prompt, self._params)
        assert len(output.outputs[0].token_ids) == self._params.max_tokens
        return time.perf_counter() - began


async def _warm(engine: AsyncEngine, load: Load, count: int) -> None:
    requests = Requests(engine, Load(count, load.input_size, min(8, load.output_tokens)))
    await asyncio.gather(*(requests.one() for _ in range(count)))


async def throughput(engine: AsyncEngine, load: Load) -> Row:
    """All requests at once."""
    await _warm(engine, load, 32)
    before, requests = await engine.stats(), Requests(engine, load)
    began = time.perf_counter()
    await asyncio.gather(*(requests.one() for _ in range(load.requests)))
    took = time.perf_counter() - began
    steps = (await engine.stats())["steps"] - before["steps"]
    return {
        "requests": load.requests, "input": load.input_size, "output_tokens": load.output_tokens, "seconds": took,
        "requests/s": load.requests / took, "tokens/s": load.requests * load.output_tokens / took, "steps": steps,
    }  # fmt: skip


async def latency(engine: AsyncEngine, load: Load, concurrency: int) -> Row:
    """A closed loop: `concurrency` callers, each with one request under way."""
    await _warm(engine, load, concurrency)
    requests, took = Requests(engine, load), []
    left = load.requests

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            took.append(await requests.one())

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed = time.perf_counter() - began
    took.sort()
    return {
        "concurrency": concurrency, "requests": len(took), "requests/s": len(took) / elapsed,
        "median_ms": 1e3 * statistics.median(took), "p95_ms": 1e3 * took[int(0.95 * (len(took) - 1))],
    }  # fmt: skip


async def run_throughput(model: str, options: dict[str, Any], load: Load) -> tuple[Row, dict[str, Any]]:
    began = time.perf_counter()
    async with AsyncEngine(model, **options) as engine:
        ready = time.perf_counter() - began
        return {**await throughput(engine, load), "ready_s": ready}, _facts(engine)


async def run_latency(
    model: str, options: dict[str, Any], load: Load, concurrencies: list[int]
) -> tuple[list[Row], dict[str, Any]]:
    async with AsyncEngine(model, **options) as engine:
        return [await latency(engine, load, each) for each in concurrencies], _facts(engine)


def _facts(engine: AsyncEngine) -> dict[str, Any]:
    assert engine.workers is not None
    return engine.workers.facts
