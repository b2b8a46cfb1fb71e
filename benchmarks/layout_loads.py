"""Whole engines in a layout: offline throughput, and how evenly running sequences go on.

Each function starts an engine over Ray and closes it. `RankProcesses(1, "any")` runs them apart, so
that one that hangs can be ended.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.actors.cluster import RayWorkers
from antiphon.actors.session import session
from antiphon.benchmarks import serving
from antiphon.benchmarks.busy import Busy
from antiphon.benchmarks.rank_processes import Seat
from antiphon.benchmarks.serving import Load, Requests
from antiphon.config.sampling import SamplingParams
from antiphon.engine.async_engine import AsyncEngine
from antiphon.runtime.garbage import frozen_heap

Options = dict[str, Any]
Figures = dict[str, Any]


def start_ray(seat: Seat) -> None:
    """One Ray for all engines of this process: starting it takes seconds."""
    session.join(None)


@dataclass(frozen=True)
class Streams:
    """`running` streams of `tokens` tokens, while a clip with a short output arrives each
    `clip_every` seconds."""

    running: int
    clip_every: float
    tokens: int


def measure(
    seat: Seat, folder: Path, options: Options, loads: dict[str, Load], streams: Streams | None
) -> Figures:
    """All requests of a load at once, by the names of `loads`: a row of `serving.throughput`, and
    what it kept busy. Then, with `streams`, milliseconds between their tokens: `alone`, and while
    clips arrive (`arriving`), as the caller sees them."""
    return asyncio.run(_measure(folder, options, loads, streams))


async def _measure(
    folder: Path, options: Options, loads: dict[str, Load], streams: Streams | None
) -> Figures:
    began = time.perf_counter()
    async with AsyncEngine(str(folder), **options) as engine:
        figures: Figures = {"ready_s": time.perf_counter() - began}
        assert isinstance(engine.workers, RayWorkers)
        spots = await engine.workers.processes()
        pids = {"caller": os.getpid(), **{name: spot.pid for name, spot in spots.items()}}
        with frozen_heap():
            for name, load in loads.items():
                with Busy(pids) as busy:
                    row = await serving.throughput(engine, load)
                figures[name] = {**row, "cpu_%": busy.cpus, "gpu_%": busy.gpus}
            if streams is not None:
                figures |= await _arrivals(engine, streams)
        return figures


async def _arrivals(engine: AsyncEngine, streams: Streams) -> Figures:
    requests, running = Requests(engine, 30.0), streams.running
    await asyncio.gather(*(requests.one(30.0, 8) for _ in range(running)))
    alone = await _stream_all(engine, requests, running, streams.tokens)
    arriving = asyncio.create_task(_arrive(requests, streams.clip_every))
    disturbed = await _stream_all(engine, requests, running, streams.tokens)
    arriving.cancel()
    (end,) = await asyncio.gather(arriving, return_exceptions=True)
    if isinstance(end, Exception):
        raise end
    return {"alone": _quantiles(alone), "arriving": _quantiles(disturbed)}


async def _arrive(requests: Requests, every: float) -> None:
    """One clip after the other, whether or not the ones before are done."""
    open_clips: set[asyncio.Task[float]] = set()
    try:
        while True:
            clip = asyncio.create_task(requests.one(30.0, 4))
            open_clips.add(clip)
            clip.add_done_callback(open_clips.discard)
            await asyncio.sleep(every)
    finally:
        for clip in open_clips:
            clip.cancel()


async def _stream_all(
    engine: AsyncEngine, requests: Requests, count: int, tokens: int
) -> list[float]:
    """Seconds between tokens, once all streams have begun and until the first one ends."""
    times: list[list[float]] = [[] for _ in range(count)]
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)

    async def one(seen: list[float]) -> None:
        async for delta in engine.stream(requests.prompt(30.0), params):
            seen += [time.perf_counter()] * len(delta.token_ids)

    await asyncio.gather(*(one(seen) for seen in times))
    first, last = max(seen[0] for seen in times), min(seen[-1] for seen in times)
    gaps = [b - a for seen in times for a, b in pairwise(seen) if first <= a and b <= last]
    assert gaps, "streams did not run side by side: let them be longer"
    return gaps


def _quantiles(gaps: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(np.array(gaps) * 1e3, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
