"""One entry through an engine: its recording fetched, cut, and transcribed or generated from."""

import asyncio
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.engine.budget import ByteBudget
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import RequestOutput, Transcription
from antiphon.inputs.audio.forms import expected_bytes, expected_bytes_of_file, load_audio
from antiphon.jobs.entries import Entry
from antiphon.jobs.records import Record, of_output, of_transcription
from antiphon.runtime.threads import DaemonThreads

P = ParamSpec("P")
T = TypeVar("T")

FETCHED_BYTES = 1 << 30  # of files and cut recordings in memory, beside the engine's own budget
UNKNOWN_BYTES = 32 << 20  # of a file whose server does not tell its size
THREADS = 16  # they wait for the network
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|[a-zA-Z][a-zA-Z0-9+.-]*::")  # as fsspec has them


class Generating(Protocol):
    """What is asked of an engine; `AsyncEngine` has it."""

    async def generate(self, prompt: Any, params: Any = None, **options: Any) -> RequestOutput: ...

    async def transcribe(self, audio: Any, **options: Any) -> Transcription: ...


class Work:
    """`rate`: Hz of the samples that the model takes; None for a model that reads text.
    `folder`: what relative paths begin at."""

    def __init__(self, engine: Generating, rate: int | None, folder: str = ".") -> None:
        self._engine, self._rate = engine, rate
        self._folder = folder if ADDRESS.match(folder) else str(Path(folder).expanduser())
        self._memory = ByteBudget(FETCHED_BYTES)
        self._threads = DaemonThreads(THREADS, "antiphon-fetch")

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
            audio = self._located(audio)
        if isinstance(audio, str):
            address, size = audio, await self._fetched(_size, audio) or UNKNOWN_BYTES
            expected = size + (expected_bytes_of_file(size, rate) if span else 0)
            held = await scope.enter_async_context(self._memory.hold(expected))
            audio = await self._fetched(_fetch, address)
            expected = expected_bytes(audio, rate) if span else 0
            await held.resize(len(audio) + expected)
        elif span:
            held = await scope.enter_async_context(self._memory.hold(expected_bytes(audio, rate)))
        if not span:
            return audio
        samples = await self._in_thread(_part, audio, rate, *span)
        held.set(samples.nbytes)
        return samples, rate

    async def _fetched(self, function: Callable[[str], T], address: str) -> T:
        """Raises AudioError."""
        try:
            return await self._in_thread(function, address)
        except Exception as error:  # the clients of object stores have errors of their own
            raise AudioError(f"{address}: cannot be fetched: {error or type(error)}") from error

    def _located(self, name: str) -> Path | str:
        """An address, or the path of a local file."""
        if not ADDRESS.match(name):
            path = Path(name).expanduser()
            if path.is_absolute() or not ADDRESS.match(self._folder):
                return Path(self._folder) / path
            name = f"{self._folder.rstrip('/')}/{name}"
        for prefix in ("file://", "local://"):
            if name.startswith(prefix):
                return Path(name.removeprefix(prefix))
        return name

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))


def _size(address: str) -> int:
    from fsspec.core import url_to_fs

    files, path = url_to_fs(address)
    return int(files.info(path).get("size") or 0)


def _fetch(address: str) -> bytes:
    from fsspec.core import url_to_fs

    files, path = url_to_fs(address)
    content: bytes = files.cat_file(path)
    return content


def _part(audio: Any, rate: int, offset: float, duration: float | None) -> np.ndarray:
    """The samples [n] from `offset` on, a copy: the whole recording is let go. Raises
    AudioError if the recording ends before it begins."""
    samples = load_audio(audio, rate)
    first = round(offset * rate)
    last = len(samples) if duration is None else min(len(samples), first + round(duration * rate))
    if first >= len(samples):
        raise AudioError(
            f"offset={offset:g}, but the recording has {len(samples) / rate:.2f} seconds"
        )
    return samples[first:last].copy()
