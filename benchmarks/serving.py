"""The engine as users run it: offline throughput, and latency with a fixed number of callers."""

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from antiphon.benchmarks.acceptance import acceptance
from antiphon.benchmarks.image_loads import ImageRequests
from antiphon.benchmarks.machine import PeakMemory
from antiphon.benchmarks.report import Row
from antiphon.config.arithmetic import ceil_div
from antiphon.config.option_values import number
from antiphon.config.sampling import SamplingParams
from antiphon.engine.async_engine import AsyncEngine
from antiphon.families.audio_config import AudioConfig
from antiphon.runtime.garbage import frozen_heap

SEED = 17
SPREAD = 0.9  # of the logarithm of mixed output lengths
VARIETY = 1 << 17  # requests before an input repeats: windows into one sequence, one apart


@dataclass(frozen=True)
class Load:
    """`input_size`: seconds of audio, tokens of text, or pixels of an image's side. `images`: of
    each prompt, for a model that reads them there.

    `mixed`: outputs are log-normal around `output_tokens`, as in traffic (most short, some long),
    and texts have any length up to `input_size`. The drawn lengths are the same in every run.
    """

    requests: int
    input_size: float
    output_tokens: int
    mixed: bool = False
    images: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        number("input_size", self.input_size)

    def sizes(self, audio: bool) -> list[tuple[float, int]]:
        """Input size and output tokens of each request."""
        if not self.mixed:
            return [(self.input_size, self.output_tokens)] * self.requests
        rng = np.random.default_rng(SEED)
        drawn = rng.lognormal(np.log(self.output_tokens), SPREAD, self.requests)
        outputs = np.clip(drawn, 4, 7.5 * self.output_tokens).astype(int).tolist()
        most = int(self.input_size)
        inputs = (
            [self.input_size] * self.requests
            if audio
            else rng.integers(ceil_div(most, 20), most + 1, self.requests).tolist()
        )
        return list(zip(inputs, outputs, strict=True))

    @property
    def warm_up(self) -> tuple[float, int]:
        """Size of a request before anything is measured."""
        return self.input_size, min(8, self.output_tokens)


_serials = itertools.count(1)


class RandomInputs:
    """Encoder inputs that never repeat, made before anything is measured.

    Samples for a model with `audio`, else token ids.
    """

    def __init__(self, largest: float, vocab_size: int, audio: AudioConfig | None) -> None:
        self._audio = audio
        rng = np.random.default_rng(SEED)
        length = self._length(largest) + VARIETY
        if audio is not None:
            self._sequence = (rng.standard_normal(length) * 0.1).astype(np.float32)
        else:
            self._sequence = rng.integers(3, vocab_size, length).astype(np.int32)

    def _length(self, size: float) -> int:
        return int(size if self._audio is None else size * self._audio.sampling_rate)

    def draw(self, size: float) -> np.ndarray:
        first = next(_serials) % VARIETY
        return self._sequence[first : first + self._length(size)]


class Requests:
    """Prompts that never repeat. `first_tokens`: seconds until each had its first token."""

    def __init__(self, engine: AsyncEngine, largest: float, images: int = 1) -> None:
        """`images`: of each prompt, for a model that reads them there."""
        self._audio, self._engine = engine.inputs.audio, engine
        self.first_tokens: list[float] = []
        self._inputs: RandomInputs | ImageRequests
        if engine.inputs.images is not None:
            self._inputs = ImageRequests(engine.inputs.images.placeholder_id, int(largest), images)
            return
        reader = engine.model.encoder or engine.model.decoder
        self._inputs = RandomInputs(largest, reader.vocab_size, self._audio)

    def prompt(self, size: float) -> Any:
        if isinstance(self._inputs, ImageRequests):
            return self._inputs.prompt(size)
        array = self._inputs.draw(size)
        if self._audio is None:
            return {"prompt_token_ids": array.tolist()}
        whisper = self._engine.inputs.whisper
        assert whisper is not None
        return {
            "prompt_token_ids": whisper.prompt("en", "transcribe", timestamps=False),
            "multi_modal_data": {"audio": (array, self._audio.sampling_rate)},
        }

    async def one(self, size: float, output_tokens: int) -> float:
        """Seconds that one request took."""
        prompt = self.prompt(size)
        arrived, began = time.time(), time.perf_counter()
        output = await self._engine.generate(
            prompt, SamplingParams(max_tokens=output_tokens, ignore_eos=True)
        )
        took = time.perf_counter() - began
        assert len(output.outputs[0].token_ids) == output_tokens
        assert output.metrics is not None
        assert output.metrics.first_token_at is not None
        self.first_tokens.append(output.metrics.first_token_at - arrived)
        return took


async def _warm(engine: AsyncEngine, load: Load, count: int) -> None:
    requests = Requests(engine, load.input_size, load.images)
    await asyncio.gather(*(requests.one(*load.warm_up) for _ in range(count)))


def warm_ups(info: dict[str, Any]) -> int:
    """Requests before offline work is measured."""
    return 32 if info["decoder"]["device"] == "cuda" else 1


async def throughput(engine: AsyncEngine, load: Load) -> Row:
    """All requests at once."""
    await _warm(engine, load, warm_ups(_info(engine)))
    before, requests = await engine.stats(), Requests(engine, load.input_size, load.images)
    sizes = load.sizes(engine.inputs.audio is not None)
    with PeakMemory() as memory:
        began = time.perf_counter()
        await asyncio.gather(*(requests.one(*size) for size in sizes))
        took = time.perf_counter() - began
    after = await engine.stats()
    steps = after["steps"] - before["steps"]
    return {**offline_row(load, sizes, took, memory), "steps": steps, **acceptance(before, after)}


def offline_row(load: Load, sizes: list[tuple[float, int]], took: float, memory: PeakMemory) -> Row:
    return {
        "requests": len(sizes),
        "input": load.input_size,
        "output_tokens": load.output_tokens,
        "seconds": took,
        "requests/s": len(sizes) / took,
        "tokens/s": sum(tokens for _, tokens in sizes) / took,
        "memory_gib": None if memory.peak is None else memory.peak / 2**30,
    }


async def latency(engine: AsyncEngine, load: Load, concurrency: int) -> Row:
    """A closed loop: `concurrency` callers, each with one request in flight."""
    await _warm(engine, load, concurrency)
    requests, took, before = (
        Requests(engine, load.input_size, load.images),
        [],
        await engine.stats(),
    )
    left = iter(load.sizes(engine.inputs.audio is not None))

    async def caller() -> None:
        for size, tokens in left:
            took.append(await requests.one(size, tokens))

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed = time.perf_counter() - began
    row = closed_loop_row(concurrency, took, elapsed, load.output_tokens)
    row["first_token_ms"] = 1e3 * statistics.median(requests.first_tokens)
    return {**row, **acceptance(before, await engine.stats())}


def closed_loop_row(concurrency: int, took: list[float], elapsed: float, tokens: int) -> Row:
    """`took`: seconds of each request, all of which generated `tokens` tokens."""
    ordered = sorted(took)
    return {
        "concurrency": concurrency,
        "requests": len(took),
        "requests/s": len(took) / elapsed,
        "tokens/s": len(took) * tokens / elapsed,
        "median_ms": 1e3 * statistics.median(took),
        "p95_ms": 1e3 * ordered[int(0.95 * (len(took) - 1))],
    }


async def run_throughput(
    model: str, options: dict[str, Any], load: Load
) -> tuple[Row, dict[str, Any]]:
    began = time.perf_counter()
    async with AsyncEngine(model, **options) as engine:
        ready = time.perf_counter() - began
        with frozen_heap():
            return {**await throughput(engine, load), "ready_s": ready}, _info(engine)


async def run_latency(
    model: str, options: dict[str, Any], load: Load, concurrencies: list[int]
) -> tuple[list[Row], dict[str, Any]]:
    async with AsyncEngine(model, **options) as engine:
        with frozen_heap():
            rows = [await latency(engine, load, callers) for callers in concurrencies]
        return rows, _info(engine)


def _info(engine: AsyncEngine) -> dict[str, Any]:
    assert engine.workers is not None
    return engine.workers.info
