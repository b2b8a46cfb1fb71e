"""Requests while workers are killed and stopped, for as long as you like; a table at the end.

    python benchmarks/scripts/chaos.py [--model FOLDER] [--minutes 20] [--requests 10000]
        [--concurrency 32] [--every 5] [--encoders 2] [--decoders 2] [--placement disaggregated]
        [--max-tokens 120] [--seed 1] [--output FILE]

A random worker gets SIGKILL, SIGSTOP or SIGSEGV, comes back, and `--every` seconds later the next
one does.
Every request must end once, with the tokens that its prompt gives undisturbed; every third one is a
stream, whose deltas must have no gap and no repetition. Exits with 1 if one did not.
"""

import argparse
import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from antiphon import AsyncEngine, SamplingParams
from antiphon.benchmarks.chaos import SIGNALS, Load, Tally, disturb
from antiphon.benchmarks.machine import host
from antiphon.benchmarks.report import Row, table, write_json

T5 = Path(__file__).parents[2] / "examples" / "t5_numbers" / "model"


async def run(arguments: argparse.Namespace) -> tuple[Tally, float]:
    """The tally, and the seconds that it took."""
    engine = AsyncEngine(
        arguments.model,
        encoder_replicas=arguments.encoders,
        decoder_replicas=arguments.decoders,
        placement=arguments.placement,
        num_threads=1,
        max_restarts=1_000_000,
    )
    params = SamplingParams(ignore_eos=True, max_tokens=arguments.max_tokens)
    prompts = [f"in words: {number}" for number in range(1_000, 1_064)]
    async with engine:
        load = Load(engine, prompts, params)
        await load.learn()
        choose = random.Random(arguments.seed)
        chaos = asyncio.create_task(
            disturb(engine, load.tally, arguments.every, choose, list(SIGNALS))
        )
        reporting = asyncio.create_task(report(load.tally))
        began = time.monotonic()
        end = began + arguments.minutes * 60
        await load.serve(arguments.requests, arguments.concurrency, lambda: time.monotonic() >= end)
        for task in (chaos, reporting):
            task.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            except TimeoutError as error:  # a worker that did not come back
                load.tally.failed.append(str(error))
        return load.tally, time.monotonic() - began


async def report(tally: Tally) -> None:
    while True:
        await asyncio.sleep(30)
        print(
            f"{tally.requests} requests, {len(tally.disturbances)} disturbances, "
            f"{len(tally.wrong)} wrong, {len(tally.failed)} failed",
            file=sys.stderr,
            flush=True,
        )


def rows(tally: Tally, seconds: float) -> list[Row]:
    requests: Row = {
        "what": "requests",
        "count": tally.requests,
        "streams": tally.streams,
        "wrong": len(tally.wrong),
        "failed": len(tally.failed),
        "per second": tally.requests / seconds,
        **quantiles("latency", tally.latencies),
    }
    return [requests, *(of_signal(tally, name) for name in SIGNALS)]


def of_signal(tally: Tally, name: str) -> Row:
    sent = [disturbance for disturbance in tally.disturbances if disturbance.signal == name]
    return {
        "what": name,
        "count": len(sent),
        **quantiles("noticed", (disturbance.noticed for disturbance in sent)),
        **quantiles("back", (disturbance.back for disturbance in sent)),
    }


def quantiles(name: str, values: Iterable[float]) -> Row:
    """Median and longest, in seconds."""
    figures = np.array(list(values))
    if not len(figures):
        return {}
    return {f"{name} p50": float(np.median(figures)), f"{name} max": float(figures.max())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(T5))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--encoders", type=int, default=2)
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--placement", default="disaggregated")
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    tally, seconds = asyncio.run(run(arguments))
    results = rows(tally, seconds)
    print(f"{host()}, load average {os.getloadavg()[0]:.1f}, {seconds:.0f} s")
    print(table(results))
    for problem in [*tally.failed[:20], *map(str, tally.wrong[:20])]:
        print(problem)
    if arguments.output is not None:
        options = {name: str(value) for name, value in vars(arguments).items()}
        write_json(arguments.output, "chaos", host(), options, results)
    raise SystemExit(0 if tally.is_right else 1)


if __name__ == "__main__":
    main()
