"""Requests while workers are killed, stopped or crash: each must end once, with the right tokens.

`benchmarks/scripts/chaos.py` runs it for as long as you like, tests for some seconds.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from antiphon.actors.cluster import RayWorkers
from antiphon.actors.processes import Spot
from antiphon.config.errors import EngineDeadError, describe
from antiphon.config.sampling import SamplingParams
from antiphon.engine.async_engine import AsyncEngine

SIGNALS = {name: signal.Signals[name] for name in ("SIGKILL", "SIGSTOP", "SIGSEGV")}
NOTICE_SECONDS = 60.0  # a disturbance that nobody noticed for so long has failed
BACK_SECONDS = 240.0  # a worker that ends often starts again after up to 30 s, and must then load
POLL_SECONDS = 0.01
STALL_SECONDS = 0.5  # a longer pause between polls is this machine's, and counts as so much

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Disturbance:
    """One signal to one worker. `noticed`: seconds until the frontend knew; `back`: until the
    worker's next incarnation was ready. Pauses of this whole process count as `STALL_SECONDS`."""

    worker: str
    signal: str
    noticed: float
    back: float


@dataclass
class Tally:
    """What became of the requests. `wrong`: number, expected and received tokens."""

    requests: int = 0
    streams: int = 0
    wrong: list[tuple[int, Tokens, Tokens]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not self.wrong and not self.failed


class Load:
    """Keeps `concurrency` requests open, every third one a stream, over these prompts in turn."""

    def __init__(self, engine: AsyncEngine, prompts: Sequence[str], params: SamplingParams) -> None:
        self.engine, self.prompts, self.params = engine, prompts, params
        self.expected: list[Tokens] = []
        self.tally = Tally()

    async def learn(self) -> None:
        """What each prompt gives while nothing disturbs it."""
        outputs = await asyncio.gather(*(self._generate(prompt) for prompt in self.prompts))
        self.expected = list(outputs)

    async def serve(
        self, count: int, concurrency: int, enough: Callable[[], bool] = lambda: True
    ) -> None:
        """At least `count` requests, and until it is `enough`, which is asked before each one."""
        numbers = self._numbers(count, enough)
        await asyncio.gather(*(self._serve(numbers) for _ in range(concurrency)))

    @staticmethod
    def _numbers(count: int, enough: Callable[[], bool]) -> Iterator[int]:
        number = 0
        while number < count or not enough():
            yield number
            number += 1

    async def _serve(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            index, began = number % len(self.prompts), time.monotonic()
            call = self._stream if number % 3 == 0 else self._generate
            self.tally.streams += number % 3 == 0
            try:
                tokens = await call(self.prompts[index])
            except EngineDeadError as error:
                self.tally.failed.append(f"request {number}: {describe(error)}")
                return  # all others would end so, without a turn of the event loop between them
            except Exception as error:
                self.tally.failed.append(f"request {number}: {describe(error)}")
            else:
                if tokens != self.expected[index]:
                    self.tally.wrong.append((number, self.expected[index], tokens))
            self.tally.latencies.append(time.monotonic() - began)
            self.tally.requests += 1

    async def _generate(self, prompt: str) -> Tokens:
        output = await self.engine.generate(prompt, self.params)
        return tuple(output.outputs[0].token_ids)

    async def _stream(self, prompt: str) -> Tokens:
        """The tokens of all deltas: a gap or a repetition shows."""
        tokens: list[int] = []
        async for delta in self.engine.stream(prompt, self.params):
            tokens += delta.token_ids
        return tuple(tokens)


async def disturb(
    engine: AsyncEngine, tally: Tally, every: float, choose: random.Random, hows: Sequence[str]
) -> None:
    """Until it is cancelled: signals a random worker, waits until it is back and `every` seconds
    more."""
    workers = engine.workers
    assert isinstance(workers, RayWorkers)
    while True:
        await asyncio.sleep(every)
        spots = await workers.processes()
        if spots:
            worker = choose.choice(sorted(spots))
            how = choose.choice(list(hows))
            tally.disturbances.append(await signalled(workers, worker, spots[worker], how))


async def signalled(workers: RayWorkers, worker: str, spot: Spot, how: str) -> Disturbance:
    """Sends a signal to a worker's process on this machine, and follows its return."""
    with suppress(ProcessLookupError):
        os.kill(spot.pid, SIGNALS[how])
    return await followed(workers, worker, how)


async def followed(workers: RayWorkers, worker: str, how: str) -> Disturbance:
    """What becomes of a worker that was disturbed just now. Raises TimeoutError."""
    before, noticed = _epoch(workers, worker), None
    passed, looked_at = 0.0, time.monotonic()
    while passed < (BACK_SECONDS if noticed else NOTICE_SECONDS):
        now = time.monotonic()
        passed, looked_at = passed + min(now - looked_at, STALL_SECONDS), now
        epoch = _epoch(workers, worker)
        if noticed is None and epoch != before:
            noticed = passed
        if noticed is not None and epoch is not None:
            return Disturbance(worker, how, noticed, passed)
        await asyncio.sleep(POLL_SECONDS)
    raise TimeoutError(f"{how} of {worker}: noticed after {noticed}, not back")


def _epoch(workers: RayWorkers, worker: str) -> int | None:
    """Of the running incarnation, as this frontend knows it."""
    name = worker.replace("colocated", "decoder")
    return next(
        (member.epoch for member in workers.members if member.name == name and member.alive), None
    )
