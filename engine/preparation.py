"""From a prompt to what a request carries: read, checked and tokenized in a thread."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from antiphon.config.errors import EngineDeadError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.budget import ByteBudget
from antiphon.engine.waits import Waits
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import Prompt
from antiphon.runtime.threads import DaemonThreads, ThreadsClosed

P = ParamSpec("P")
T = TypeVar("T")

INPUT_BYTES = 2 << 30  # of audio samples in memory for open calls: 9 hours at 16 kHz
INPUT_THREADS = 32  # they mostly wait for files


class Preparation:
    """The engine's input threads, and the memory budget of the audio they read."""

    def __init__(self, inputs: InputProcessor) -> None:
        self.inputs = inputs
        self.memory = ByteBudget(INPUT_BYTES)
        self.waits = Waits()

    def start(self) -> None:
        self.waits = Waits()
        self._threads = DaemonThreads(INPUT_THREADS, "antiphon-inputs")

    def stop(self) -> None:
        """Does not wait for what the threads are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In the caller's context: what the thread logs belongs to the caller's request. Raises
        EngineDeadError as soon as the engine ends."""
        call = partial(copy_context().run, function, *args, **kwargs)
        try:
            work = self._threads.submit(call)
        except ThreadsClosed as error:  # the engine was closed before
            raise EngineDeadError(str(error)) from None
        return await self.waits.result(asyncio.wrap_future(work))

    @asynccontextmanager
    async def prepared(
        self,
        prompt: Prompt | Prepared,
        params: SamplingParams,
        languages: tuple[str | None, str | None],
    ) -> AsyncIterator[Prepared]:
        """The prompt's parts, ready to submit. The audio counts against the memory budget until the
        scope ends. `languages`: source and target. Raises InputError."""
        if isinstance(prompt, Prepared):
            async with self.memory.hold(prompt.nbytes):
                yield prompt
            return
        async with self.memory.hold(self.inputs.expected_bytes(prompt)) as held:
            prepare = self.inputs.prepare
            prepared = await self.run_in_thread(prepare, prompt, params, *languages)
            held.set(prepared.nbytes)
            yield prepared
