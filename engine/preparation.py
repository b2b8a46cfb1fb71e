"""From a prompt to what a request carries: read, checked and tokenized in a thread."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from antiphon.config.sampling import SamplingParams
from antiphon.engine.budget import ByteBudget
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import Prompt
from antiphon.runtime.threads import DaemonThreads

P = ParamSpec("P")
T = TypeVar("T")

INPUT_BYTES = 2 << 30  # of audio samples in memory for open calls: 9 hours at 16 kHz
INPUT_THREADS = 32  # they mostly wait for files


class Preparation:
    """The engine's input threads, and the memory budget of the audio they read."""

    def __init__(self, inputs: InputProcessor) -> None:
        self.inputs = inputs
        self.memory = ByteBudget(INPUT_BYTES)

    def start(self) -> None:
        self._threads = DaemonThreads(INPUT_THREADS, "antiphon-inputs")

    def stop(self) -> None:
        """Does not wait for what the threads are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In the caller's context: what the thread logs belongs to the caller's request."""
        loop = asyncio.get_running_loop()
        call = partial(copy_context().run, function, *args, **kwargs)
        return await loop.run_in_executor(self._threads, call)

    @asynccontextmanager
    async def prepared(
        self, prompt: Prompt, params: SamplingParams, languages: tuple[str | None, str | None]
    ) -> AsyncIterator[Prepared]:
        """The prompt's parts, ready to submit. The audio counts against the memory budget until the
        scope ends. `languages`: source and target. Raises InputError."""
        async with self.memory.hold(self.inputs.expected_bytes(prompt)) as held:
            prepared, num_bytes = await self.run_in_thread(self._read, prompt, params, *languages)
            held.set(num_bytes)
            yield prepared

    def _read(
        self,
        prompt: Prompt,
        params: SamplingParams,
        source_language: str | None,
        target_language: str | None,
    ) -> tuple[Prepared, int]:
        """The prepared prompt, and the bytes of its audio or images; text counts as none."""
        prepared = self.inputs.prepare(prompt, params, source_language, target_language)
        inputs = prepared.inputs
        num_bytes = sum(media.payload.nbytes for media in inputs if media.kind != "text")
        return prepared, num_bytes
