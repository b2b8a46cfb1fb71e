"""What HTTP adds: the same recordings through the server and into its engine directly, in turns.

    python benchmarks/scripts/http_overhead.py [--model whisper-large-v3] [--no-ray]
        [--callers 1,32,128] [--requests 80,400,600] [--rounds 2] [--seconds 4.7] [--tokens 20]
        [--stream] [--clients 4] [--engine quantization=fp8] [--output FILE]

One engine, one process with the server's event loop; the clients are processes of their own, and
the direct callers are tasks in that loop. Weights are random, every request generates `--tokens`
tokens, and no recording comes twice. `--model tiny` is for trying the script out on a CPU.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.benchmarks.report import Row, table, write_json
from antiphon.benchmarks.service.arrivals import ClosedLoop
from antiphon.benchmarks.service.asks import RATE, Form
from antiphon.benchmarks.service.exchange import Server
from antiphon.benchmarks.shapes import speech_of_one_length
from antiphon.cli.pairs import parse_pairs
from antiphon.client.sound import wav

NAME, TIMEOUT = "measured", 600.0
VARIETY = 1 << 17  # recordings before one comes again: windows into one sequence, one apart
Times = list[tuple[float, float]]  # of each request: when it began and when it ended


class Clips:
    """Recordings that never repeat."""

    def __init__(self, seconds: float, seed: int) -> None:
        self._length, self._number = round(seconds * RATE), 0
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal(self._length + VARIETY) * 3000
        self._samples = noise.clip(-32768, 32767).astype("<i2")

    def take(self, count: int) -> list[bytes]:
        first, self._number = self._number, self._number + count
        assert self._number <= VARIETY
        return [wav(self._samples[i : i + self._length], RATE) for i in range(first, self._number)]


# ---------------------------------------------------------------------- clients


def client(pipe: Connection, address: str, seconds: float, seed: int, stream: bool) -> None:
    """A process of callers: gets (callers, requests), answers with their times."""
    asyncio.run(_client(pipe, Server(address, None, NAME, TIMEOUT), Clips(seconds, seed), stream))


async def _client(pipe: Connection, server: Server, clips: Clips, stream: bool) -> None:
    form = Form("transcriptions", stream=stream)
    while (order := await asyncio.to_thread(pipe.recv)) is not None:
        callers, requests = order
        asks = [form.ask_of_sound(clip, 0.0, None) for clip in clips.take(requests)]
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        answers = await ClosedLoop(callers).run(asks, server.ask)
        failed = [answer.error for answer in answers if answer.error is not None]
        pipe.send(failed[0] if failed else [(answer.began, answer.ended) for answer in answers])
    await server.close()


class Clients:
    """Client processes, which share the callers."""

    def __init__(self, count: int, address: str, seconds: float, stream: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for number in range(count):
            own, other = context.Pipe()
            arguments = (other, address, seconds, 1000 + number, stream)
            context.Process(target=client, args=arguments, daemon=True).start()
            self._pipes.append(own)

    async def run(self, callers: int, requests: int) -> Times:
        pipes = self._pipes[:callers]
        for number, pipe in enumerate(pipes):
            share = [len(range(number, total, len(pipes))) for total in (callers, requests)]
            pipe.send(tuple(share))
        await self._answers(pipes)
        for pipe in pipes:
            pipe.send("go")
        times: Times = []
        for answer in await self._answers(pipes):
            if isinstance(answer, str):
                raise SystemExit(f"a request failed: {answer}")
            times += answer
        return times

    async def _answers(self, pipes: Sequence[Connection]) -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(pipe.recv) for pipe in pipes))

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)


# ---------------------------------------------------------------------- both ways


async def direct(engine: Any, clips: Clips, callers: int, requests: int, stream: bool) -> Times:
    """Without HTTP: as the endpoint calls the engine."""
    options = {"timestamps": False, "timeout": TIMEOUT}

    async def ask(clip: bytes) -> tuple[float, float]:
        began = time.perf_counter()
        if stream:
            async with aclosing(engine.stream_transcription(clip, **options)) as pieces:
                async for _ in pieces:
                    pass
        else:
            await engine.transcribe(clip, **options)
        return began, time.perf_counter()

    return await ClosedLoop(callers).run(clips.take(requests), ask)


async def measure(arguments: argparse.Namespace, folder: str) -> list[Row]:
    from antiphon import AsyncEngine
    from antiphon.runtime.garbage import frozen_heap
    from antiphon.serve.one_process import OneProcessServer
    from antiphon.serve.settings import ServerSettings

    began = time.perf_counter()
    options = {"load_format": "dummy", **parse_pairs(arguments.engine, "--engine")}
    engine = AsyncEngine(folder, **({"ray": False} if arguments.no_ray else {}), **options)

    async def opened() -> Any:
        await engine.start()
        assert engine.inputs.whisper is not None
        engine.inputs.whisper.temperature = 0.0  # no text of random weights is good enough
        return engine

    server = OneProcessServer(ServerSettings(port=0), {NAME: opened})
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            raise SystemExit("the server did not start: see above")
        await asyncio.sleep(0.05)
    clients = Clients(arguments.clients, server.address, arguments.seconds, arguments.stream)
    clips, rows = Clips(arguments.seconds, 0), list[Row]()
    callers = [int(number) for number in arguments.callers.split(",")]
    requests = [int(number) for number in arguments.requests.split(",")]
    print(f"ready after {time.perf_counter() - began:.0f} s: {engine.workers.info}", flush=True)
    with frozen_heap():
        for number, count in zip(callers, requests, strict=True):
            await direct(engine, clips, number, max(4, number), arguments.stream)
            await clients.run(number, max(4, number))
            without: list[Row] = []
            over: list[Row] = []
            for turn in range(arguments.rounds):
                for way in (0, 1) if turn % 2 == 0 else (1, 0):
                    if way == 0:
                        times = await direct(engine, clips, number, count, arguments.stream)
                    else:
                        times = await clients.run(number, count)
                    (over if way else without).append(figures(times))
            rows.append(compared(number, count, without, over))
            print(rows[-1], flush=True)
    clients.close()
    server.should_exit = True
    await serving
    return rows


def figures(times: Times) -> Row:
    took = max(ended for _, ended in times) - min(began for began, _ in times)
    latencies = [ended - began for began, ended in times]
    return {"requests/s": len(times) / took, "median_ms": 1e3 * statistics.median(latencies)}


def compared(callers: int, requests: int, without: list[Row], over: list[Row]) -> Row:
    """Medians of the rounds."""

    def median(rows: list[Row], name: str) -> float:
        return statistics.median(row[name] for row in rows)

    rate, rate_http = (median(rows, "requests/s") for rows in (without, over))
    latency, latency_http = (median(rows, "median_ms") for rows in (without, over))
    return {
        "callers": callers,
        "requests": requests,
        "engine requests/s": rate,
        "HTTP requests/s": rate_http,
        "% of engine": 100 * rate_http / rate,
        "engine median ms": latency,
        "HTTP median ms": latency_http,
        "added ms": latency_http - latency,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="whisper-large-v3")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--callers", default="1,32,128")
    parser.add_argument("--requests", default="80,400,600", help="of each number of callers")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.7, help="of each recording")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--clients", type=int, default=4, help="processes of callers")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began = time.perf_counter()
    with speech_of_one_length(arguments.model, arguments.tokens) as folder:
        rows = asyncio.run(measure(arguments, folder))
    print(table(rows))
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
    if arguments.output is not None:
        from antiphon.benchmarks.machine import device_name

        device = device_name()
        options = {name: str(value) for name, value in vars(arguments).items()}
        write_json(arguments.output, "HTTP overhead", device, options, rows)


if __name__ == "__main__":
    main()
