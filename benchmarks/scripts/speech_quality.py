"""What quality costs: the same load of callers with statistics, word times and beams, in turns.

    python benchmarks/scripts/speech_quality.py [--model whisper-large-v3] [--no-ray]
        [--callers 32] [--requests 400] [--rounds 3] [--seconds 4.7] [--tokens 20] [--beams 5]
        [--engine quantization=fp8] [--output FILE]

One engine, random weights; every request generates `--tokens` tokens, and no recording comes twice.
Beside the times stands what the workers counted: what a way costs may lie in how its requests meet.
The engine has room for the beams of all callers, unless `--engine max_num_seqs=` says otherwise.
"greedy" asks for the tokens alone. "statistics" also has what fallback judges a text by: average
log-probability, no-speech probability and compression ratio. `--model tiny` is for trying the
script out on a CPU.
"""

import argparse
import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from antiphon import AsyncEngine
from antiphon.benchmarks.machine import device_name
from antiphon.benchmarks.report import Row, table, write_json
from antiphon.benchmarks.service.arrivals import ClosedLoop
from antiphon.benchmarks.serving import Requests
from antiphon.benchmarks.shapes import speech_of_one_length
from antiphon.cli.pairs import parse_pairs
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.graphs import EagerReason
from antiphon.runtime.garbage import frozen_heap

AIMS = {"statistics": 1.02, "word times": 1.05, "beams": 2.2}
Way = Callable[[Any], Awaitable[Any]]


def ways(engine: AsyncEngine, tokens: int, beams: int) -> dict[str, Way]:
    """Each takes a prompt of `Requests`, as it is or only the sound in it."""
    plain = {"timestamps": False, "temperature": 0.0, "language": "en"}

    def greedy(prompt: Any) -> Awaitable[Any]:
        return engine.generate(prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))

    def transcribe(**options: Any) -> Way:
        return lambda prompt: engine.transcribe(
            prompt["multi_modal_data"]["audio"], **plain, **options
        )

    return {
        "greedy": greedy,
        "statistics": transcribe(),
        "word times": transcribe(word_timestamps=True),
        "beams": transcribe(beam_size=beams),
    }


async def measure(folder: str, arguments: argparse.Namespace) -> list[Row]:
    room = {"max_num_seqs": arguments.callers * arguments.beams}
    options = {"load_format": "dummy", **room, **parse_pairs(arguments.engine, "--engine")}
    if arguments.no_ray:
        options["ray"] = False
    async with AsyncEngine(folder, **options) as engine:
        requests = Requests(engine, arguments.seconds)
        calls = ways(engine, arguments.tokens, arguments.beams)
        took: dict[str, list[float]] = {name: [] for name in calls}
        counted = {name: Counter[str]() for name in calls}
        with frozen_heap():
            for turn in range(arguments.rounds + 1):  # the first one warms up
                for name, call in list(calls.items())[:: 1 if turn % 2 else -1]:
                    count = arguments.requests if turn else arguments.callers
                    before = await engine.stats()
                    seconds = await _closed_loop(requests, call, arguments, count)
                    if turn:
                        took[name].append(seconds)
                        counted[name].update(await engine.stats())
                        counted[name].subtract(before)
    return list(rows(took, counted, arguments.requests))


async def _closed_loop(
    requests: Requests, call: Way, arguments: argparse.Namespace, count: int
) -> float:
    prompts = [requests.prompt(arguments.seconds) for _ in range(count)]
    began = time.perf_counter()
    await ClosedLoop(arguments.callers).run(prompts, call)
    return time.perf_counter() - began


def rows(
    took: dict[str, list[float]], counted: dict[str, Counter[str]], requests: int
) -> Iterator[Row]:
    base = took["greedy"]
    for name, seconds in took.items():
        ratios = [own / other for own, other in zip(seconds, base, strict=True)]
        counts = counted[name]
        eager = sum(counts[reason.counter] for reason in EagerReason)
        yield {
            "": name,
            "requests/s": requests / statistics.median(seconds),
            "time, x greedy": statistics.median(ratios),
            "aim": f"<= {AIMS[name]:g}" if name in AIMS else "",
            "steps, ms": 1000 * sum(seconds) / counts["steps"],
            "tokens a step": counts["tokens"] / counts["steps"],
            "steps without graph, %": 100 * eager / counts["steps"],
            "clips a batch": counts["encoder_inputs"] / counts["encoder_batches"],
            "encoder busy, %": 1e-4 * counts["encoder_busy_us"] / sum(seconds),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="whisper-large-v3")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.7, help="of each recording")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with speech_of_one_length(arguments.model, arguments.tokens) as folder:
        measured = asyncio.run(measure(folder, arguments))
    print(table(measured))
    if arguments.output is not None:
        device = device_name()
        options = {name: str(value) for name, value in vars(arguments).items()}
        write_json(arguments.output, "speech quality", device, options, measured)


if __name__ == "__main__":
    main()
