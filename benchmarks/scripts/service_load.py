"""Mixed traffic on a server while its workers are killed, for as long as you like; a table at the
end.

    python benchmarks/scripts/service_load.py [--minutes 30] [--callers 16] [--every 60]
        [--warm-up 60] [--settle 20] [--memory-limit 50] [--seed 1] [--output FILE]

Two of the shipped models over Ray behind one server; the clients are a process of their own. A
random worker gets SIGKILL every `--every` seconds. Every answer must be its reference, which was
learned before anything was disturbed; afterwards no request may be open, all pages must be free,
and the memory of all processes within `--memory-limit` of where it was. Exits with 1 if not.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from antiphon.benchmarks.report import Row, table, write_json
from antiphon.benchmarks.service.nuisances import Material
from antiphon.benchmarks.service.traffic import Tally, Traffic

EXAMPLES = Path(__file__).parents[2] / "examples"
EARS, READER = "hears", "numbers"
MODELS = {EARS: EXAMPLES / "whisper_commands" / "model", READER: EXAMPLES / "t5_numbers" / "model"}
RECONNECTED = "connection closed before an answer, asked again"
HELD_OUT = 20  # recordings that the model was not trained on
UPLOAD_MIB = 0.5
MEBIBYTE = 1 << 20


def recordings() -> dict[str, bytes]:
    folder = EXAMPLES / "whisper_commands"
    sounds = {
        path.name: path.read_bytes()
        for path in sorted((folder / "recordings").iterdir())
        if path.suffix != ".json"
    }
    with zipfile.ZipFile(folder / "held_out.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".opus")][:HELD_OUT]
        return sounds | {name: archive.read(name) for name in names}


# ---------------------------------------------------------------------- clients


def clients(pipe: Connection, url: str, callers: int, seed: int) -> None:
    """A process: learns, says so, and begins and ends when it is told; answers with tallies."""
    asyncio.run(_clients(pipe, url, callers, seed))


async def _clients(pipe: Connection, url: str, callers: int, seed: int) -> None:
    texts = [f"in words: {number}" for number in (7, 42, 99, 310, 1_234, 70_070, 123_456, 999_999)]
    limit = int(UPLOAD_MIB * MEBIBYTE)
    material = Material(url, EARS, READER, recordings(), texts, limit, random.Random(seed))
    traffic = Traffic(material)
    await traffic.learn()
    while True:
        reconnected = {RECONNECTED: {"count": traffic.reconnected}}
        pipe.send({kind: vars(tally) for kind, tally in traffic.tallies.items()} | reconnected)
        if (seconds := await asyncio.to_thread(pipe.recv)) is None:
            break
        end = time.monotonic() + seconds
        await traffic.run(callers, partial(_is_over, end))
    await traffic.close()


def _is_over(end: float) -> bool:
    return time.monotonic() >= end


# ---------------------------------------------------------------------- the server


class Site:
    """Engines over Ray, and the server in this process."""

    def __init__(self) -> None:
        from antiphon import AsyncEngine
        from antiphon.serve.one_process import OneProcessServer
        from antiphon.serve.settings import Limits, ServerSettings

        options: dict[str, Any] = {"num_threads": 1, "max_num_seqs": 16, "max_restarts": 1_000_000}
        options |= {"placement": "disaggregated", "decoder_replicas": 1}
        self.engines = {name: AsyncEngine(str(path), **options) for name, path in MODELS.items()}
        limits = Limits(upload_mib=UPLOAD_MIB, idle_seconds=5)
        openers = {name: engine.start for name, engine in self.engines.items()}
        self.server = OneProcessServer(ServerSettings(port=0, limits=limits), openers)

    async def start(self) -> None:
        self._serving = asyncio.create_task(self.server.serve())
        while not self.server.started:
            if self._serving.done():
                raise SystemExit("the server did not start: see above")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self.server.should_exit = True
        await self._serving

    async def mebibytes(self) -> dict[str, float]:
        """Of this process and of each worker's, without what they share."""
        pids = {"server": os.getpid()}
        for name, engine in self.engines.items():
            for worker, spot in (await engine.workers.processes()).items():
                pids[f"{name}, {worker}"] = spot.pid
        used = {}
        for name, pid in pids.items():
            with suppress(psutil.NoSuchProcess):  # one was killed just now
                used[name] = psutil.Process(pid).memory_full_info().uss / MEBIBYTE
        return used

    async def counters(self) -> dict[str, dict[str, int]]:
        return {name: await engine.stats() for name, engine in self.engines.items()}


async def free(site: Site, seconds: float) -> list[str]:
    """What is still held after `seconds`."""
    end, held = time.monotonic() + seconds, ["?"]
    while held and time.monotonic() < end:
        await asyncio.sleep(0.5)
        held = [
            f"{name}: {counts['open']} requests open, "
            f"{counts['kv_pages'] - counts['kv_pages_available']} pages held"
            for name, counts in (await site.counters()).items()
            if counts["open"] or counts["kv_pages"] != counts["kv_pages_available"]
        ]
        if (number := site.server.app.state.service.admission.open) > 0:
            held.append(f"the server: {number} requests open")
    return held


# ---------------------------------------------------------------------- the run


async def run(arguments: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The table, and what was wrong."""
    from antiphon.benchmarks.chaos import Tally as Kills
    from antiphon.benchmarks.chaos import disturb

    site = Site()
    await site.start()
    pipe, other = multiprocessing.Pipe()
    arguments_of_clients = (other, site.server.address, arguments.callers, arguments.seed)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=clients, args=arguments_of_clients, daemon=True)
    process.start()
    other.close()  # so that `recv` fails where the clients have died
    await asyncio.to_thread(pipe.recv)
    print("references are learned", file=sys.stderr, flush=True)
    kills = Kills()
    choose = random.Random(arguments.seed)
    killers: list[asyncio.Task[None]] = []
    held = await _phase(pipe, site, arguments.warm_up, arguments.settle)
    before = await site.mebibytes()
    began = time.monotonic()
    for number, engine in enumerate(site.engines.values()):
        every = arguments.every * len(site.engines)
        killers.append(asyncio.create_task(_kill(engine, kills, every, number, choose, disturb)))
    tallies = await _phase_tallies(pipe, arguments.minutes * 60, site)
    seconds = time.monotonic() - began
    problems = [problem for tally in tallies.values() for problem in tally.problems]
    for task in killers:
        task.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await task
        except TimeoutError as error:  # a worker that did not come back
            problems.append(str(error))
    held += await free(site, arguments.settle)
    await asyncio.sleep(arguments.settle)
    after = await site.mebibytes()
    pipe.send(None)
    process.join(30)
    await site.stop()
    problems += held
    if (grown := sum(after.values()) - sum(before.values())) > arguments.memory_limit:
        problems.append(f"memory grew by {grown:.0f} MiB")
    rows = [row(kind, tally, seconds) for kind, tally in tallies.items()]
    rows.append(of_kills(kills))
    for name in {**before, **after}:
        used = {"before": before.get(name), "after": after.get(name)}
        rows.append({"what": f"MiB of {name}", **used})
    return rows, problems


async def _kill(
    engine: Any, kills: Any, every: float, number: int, choose: Any, disturb: Any
) -> None:
    """The engines' workers are killed in turns."""
    await asyncio.sleep(number * every / 2)
    await disturb(engine, kills, every, choose, ["SIGKILL"])


async def _phase(pipe: Connection, site: Site, seconds: float, settle: float) -> list[str]:
    """Traffic without kills, so that what is made on demand is there."""
    await _phase_tallies(pipe, seconds, site)
    return await free(site, settle)


async def _phase_tallies(pipe: Connection, seconds: float, site: Site) -> Mapping[str, Tally]:
    pipe.send(seconds)
    answer = asyncio.create_task(asyncio.to_thread(pipe.recv))
    while not answer.done():
        await asyncio.wait([answer], timeout=30)
        used = (await site.mebibytes()).items()
        parts = ", ".join(f"{name} {mebibytes:.0f}" for name, mebibytes in used)
        print(f"{time.strftime('%H:%M:%S')} MiB: {parts}", file=sys.stderr, flush=True)
    return {kind: Tally(**values) for kind, values in answer.result().items()}


def row(kind: str, tally: Tally, seconds: float) -> Row:
    times = np.array(tally.seconds or [0.0])
    return {
        "what": kind,
        "count": tally.count,
        "wrong or failed": len(tally.problems),
        "per second": tally.count / seconds,
        "p50 s": float(np.median(times)),
        "p99 s": float(np.percentile(times, 99)),
        "max s": float(times.max()),
    }


def of_kills(kills: Any) -> Row:
    back = [kill.back for kill in kills.disturbances] or [0.0]
    return {
        "what": "SIGKILL of a worker, until it was back",
        "count": len(kills.disturbances),
        "p50 s": float(np.median(back)),
        "max s": max(back),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--every", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds of traffic before")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds, before and behind")
    parser.add_argument("--memory-limit", type=float, default=50, help="growth in MiB")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows, problems = asyncio.run(run(arguments))
    from antiphon.benchmarks.machine import host

    print(f"{host()}, load average {os.getloadavg()[0]:.1f}")
    print(table(rows))
    for problem in problems[:40]:
        print(problem)
    if arguments.output is not None:
        options = {name: str(value) for name, value in vars(arguments).items()}
        write_json(arguments.output, "service load", host(), options, rows)
        print(json.dumps(problems[:1000]), file=sys.stderr)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
