"""Requests with images to one whole model with random weights: time to the first token and requests
a second with so many callers, beside transformers in the same run; and a decode step.

    python benchmarks/scripts/image_requests.py qwen2.5-vl-7b [--loads 2x224x1,1x1344x1]
        [--callers 1,10,32] [--peer 10 --peer-loads 2x224x1] [--ray] [--output FILE.json]
        [OPTION=VALUE ...]
    python benchmarks/scripts/image_requests.py qwen2.5-vl-7b --small    # a rehearsal on a CPU

A load: images of a prompt x their side in pixels x tokens of output. Engine and callers are in this
process, unless --ray. FILE always has all there is so far.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from antiphon.benchmarks import image_peers, profiles, steps
from antiphon.benchmarks.image_encoders import release
from antiphon.benchmarks.image_shapes import MODELS, small, threes
from antiphon.benchmarks.machine import device_name, measure
from antiphon.benchmarks.report import Report, Row, table
from antiphon.benchmarks.serving import Load, latency
from antiphon.benchmarks.shapes import write_checkpoint
from antiphon.benchmarks.stacks import sampled
from antiphon.cli.pairs import parse_pairs
from antiphon.config.errors import describe
from antiphon.config.options import resolve
from antiphon.engine.async_engine import AsyncEngine
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.garbage import frozen_heap

LOADS = "2x224x1,1x1344x1,2x224x128,1x1344x128"
SECONDS = 4  # of a measurement, about
KERNELS = 25  # of a profile
STEP_SEQUENCES, STEP_LENGTH = [1, 32], 256
OPTIONS = {"load_format": "dummy", "max_model_len": 4096, "ray": False}


def requests_of(load: Load, callers: int, rate: float) -> int:
    """As many as take `SECONDS` at `rate` requests a second; 3 for each caller at least."""
    return max(3 * callers, min(256, int(SECONDS * rate)))


async def measured(
    folder: str,
    options: dict[str, Any],
    loads: list[Load],
    callers: list[int],
    report: Report,
    profiled: Path | None,
) -> None:
    """`profiled`: where a profile of the first load goes, with the most callers."""
    async with AsyncEngine(folder, **options) as engine:
        assert engine.workers is not None
        print(engine.workers.info, flush=True)
        for load in loads:
            rate = 4.0
            for count in callers:
                sized = replace(load, requests=requests_of(load, count, rate))
                with frozen_heap():
                    row = await latency(engine, sized, count)
                rate = row["requests/s"]
                report.add([{"engine": "antiphon", **named(load), **row}])
        if profiled is not None:
            most = max(callers)
            sized = replace(loads[0], requests=4 * most)
            await profile(engine, partial(latency, engine, sized, most), profiled)


async def profile(engine: AsyncEngine, run: Callable[[], Awaitable[Row]], path: Path) -> None:
    """Kernels by their time, how long the device is busy in all, what the engine counts meanwhile
    and where its threads stand."""
    before, began = await engine.stats(), time.perf_counter()
    with profiles.profiler() as trace, sampled() as stacks:
        row = await run()
    took, every = time.perf_counter() - began, profiles.kernels(trace, calls=1)
    busy = sum(kernel.us for kernel in every) / 1e6
    kernels = table(profiles.rows_of(every, KERNELS)) if every else "the profiler saw none"
    after = await engine.stats()
    counted = {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name)}
    path.write_text(
        f"{row}\nkernels: {busy:.2f} s of {took:.2f} s\n{counted}\n{stacks}\n{kernels}\n"
    )


def named(load: Load) -> Row:
    return {
        "images": load.images,
        "side": int(load.input_size),
        "output_tokens": load.output_tokens,
    }


def parsed(loads: str) -> list[Load]:
    return [Load(1, side, tokens, images=images) for images, side, tokens in threes(loads)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(MODELS))
    parser.add_argument("--loads", default=LOADS)
    parser.add_argument("--callers", default="1,10,32")
    parser.add_argument("--peer", default="", help="batches of transformers")
    parser.add_argument("--peer-loads", default="", help="of transformers; by default --loads")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="of the first load")
    parser.add_argument("--no-steps", action="store_true")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE")
    arguments = parser.parse_intermixed_args()
    config = MODELS[arguments.name]
    options = {**OPTIONS, "ray": arguments.ray, **parse_pairs(arguments.options, "engine option")}
    report = Report(arguments.name, device_name(), arguments.output)
    loads = parsed(arguments.loads)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(small(config) if arguments.small else config, Path(folder))
        callers = [int(count) for count in arguments.callers.split(",")]
        asyncio.run(measured(folder, options, loads, callers, report, arguments.profile))
        release()
        if not arguments.no_steps:
            _attempt(report, "a decode step", partial(decode_steps, folder, options))
        release()
        for batch in filter(None, arguments.peer.split(",")):
            for load in parsed(arguments.peer_loads or arguments.loads):
                measure_peer = partial(peer, Path(folder), load, int(batch))
                _attempt(report, f"transformers, {batch} x {named(load)}", measure_peer)
    print(table(report.rows))


def decode_steps(folder: str, options: dict[str, Any]) -> list[Row]:
    """Beside the bytes that a step must read, at the copy rate of this run; on a CPU with the
    host's work alone."""
    config = resolve(folder, {name: value for name, value in options.items() if name != "ray"})
    model = ModelConfig.load(config.model)
    if not torch.cuda.is_available():
        return steps.decoder_with_host(model, config, STEP_SEQUENCES, 0, STEP_LENGTH)
    machine = measure()
    print(machine, flush=True)
    return steps.decoder(model, config, machine, STEP_SEQUENCES, 0, STEP_LENGTH)


def peer(folder: Path, load: Load, batch: int) -> list[Row]:
    on_cuda = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, "cuda") if on_cuda else (torch.float32, "cpu")
    return [image_peers.generation(folder, load, batch, dtype, device)]


def _attempt(report: Report, name: str, measured_rows: Callable[[], list[Row]]) -> None:
    try:
        report.add(measured_rows())
    except Exception as error:
        print(f"{name}: {describe(error)}", flush=True)


if __name__ == "__main__":
    main()
