"""One entry through an engine: its recording fetched, cut, and transcribed or generated from."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from antiphon.config.errors import AudioError
from antiphon.engine.budget import ByteBudget
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import RequestOutput, Transcription
from antiphon.inputs.audio.forms import expected_bytes, expected_bytes_of_file
from antiphon.jobs.entries import Entry
from antiphon.jobs.recordings import fetch, located, part, size_of
from antiphon.jobs.records import Record, of_output, of_transcription
from antiphon.runtime.threads import DaemonThreads

P = ParamSpec("P")
T = TypeVar("T")

FETCHED_BYTES = 1 << 30  # of files and cut recordings in memory, beside the engine's own budget
UNKNOWN_BYTES = 32 << 20  # of a file whose server does not tell its size
THREADS = 16  # they wait for the network


def fetching_threads() -> Executor:
    return DaemonThreads(THREADS, "antiphon-fetch")


class Generating(Protocol):
    """What is asked of an engine; `AsyncEngine` has it."""

    async def generate(self, prompt: Any, params: Any = None, **options: Any) -> RequestOutput: ...

    async def transcribe(self, audio: Any, **options: Any) -> Transcription: ...


class Work:
    """`rate`: Hz of the samples that the model takes; None for a model that reads text.
    `folder`: what relative paths begin at. `threads`: that fetch; by default its own."""

    def __init__(
        self,
        engine: Generating,
        rate: int | None,
        folder: str = ".",
        threads: Executor | None = None,
    ) -> None:
        self._engine, self._rate, self._folder = engine, rate, folder
        self._memory = ByteBudget(FETCHED_BYTES)
        self._threads = threads or fetching_threads()

    async def perform(self, entry: Entry) -> Record:
        """Raises the AntiphonError that this entry ends with."""
        if self._rate is None:
            output = await self._engine.generate(entry.prompt, entry.params, **entry.options)
            return of_output(entry, output)
        options = dict(entry.options)
        deadline = Deadline(options.get("timeout"))
        async with AsyncExitStack() as scope:
            async with deadline.limit():
                audio = await self._audio(entry, scope)
            if deadline.timeout is not None:
                options["timeout"] = deadline.seconds_left
            if entry.prompt is None:
                result = await self._engine.transcribe(audio, params=entry.params, **options)
                return of_transcription(entry, result)
            prompt = {"prompt": entry.prompt, "multi_modal_data": {"audio": audio}}
            kept = {name: options[name] for name in ("timeout", "priority") if name in options}
            output = await self._engine.generate(prompt, entry.params, **kept)
            return of_output(entry, output)

    async def _audio(self, entry: Entry, scope: AsyncExitStack) -> Any:
        """The recording, or its part. What is fetched or cut is held against the budget
        until `scope` ends."""
        audio, span, rate = entry.audio, entry.span, self._rate
        assert rate is not None
        if isinstance(audio, str):
            audio = located(audio, self._folder)
        if isinstance(audio, str):
            address, size = audio, await self._fetched(size_of, audio) or UNKNOWN_BYTES
            expected = size + (expected_bytes_of_file(size, rate) if span else 0)
            held = await scope.enter_async_context(self._memory.hold(expected))
            audio = await self._fetched(fetch, address)
            expected = expected_bytes(audio, rate) if span else 0
            await held.resize(len(audio) + expected)
        elif span:
            held = await scope.enter_async_context(self._memory.hold(expected_bytes(audio, rate)))
        if not span:
            return audio
        samples = await self._in_thread(part, audio, rate, *span)
        held.set(samples.nbytes)
        return samples, rate

    async def _fetched(self, function: Callable[[str], T], address: str) -> T:
        """Raises AudioError."""
        try:
            return await self._in_thread(function, address)
        except Exception as error:  # the clients of object stores have errors of their own
            raise AudioError(f"{address}: cannot be fetched: {error or type(error)}") from error

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))
