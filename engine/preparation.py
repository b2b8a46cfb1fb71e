"""From a prompt to what a request carries: read, checked and tokenized in a thread."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

from antiphon.config.errors import EngineDeadError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.budget import ByteBudget, Hold
from antiphon.engine.waits import Waits
from antiphon.inputs.numbered import numbered
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import Prompt
from antiphon.inputs.unread import Unread
from antiphon.runtime.threads import DaemonThreads, ForLoop, ThreadsClosed

P = ParamSpec("P")
T = TypeVar("T")
Media = TypeVar("Media", EncoderInput, Prepared)

# Of sound, pictures and videos in memory for open calls: 9 hours at 16 kHz, or 85 pictures of a
# million pixels as Qwen2-VL's encoder takes them.
INPUT_BYTES = 2 << 30
# Of media that are read in one go with their prompt, if so much is free at once: two minutes of
# samples. Every further call of a thread would add to what one caller waits for.
SMALL_BYTES = 8 << 20
INPUT_THREADS = 32  # they mostly wait for files


class Preparation:
    """The engine's input threads, and the memory budget of the media they read."""

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
        work = ForLoop(call, asyncio.get_running_loop())
        try:
            self._threads.do(work)
        except ThreadsClosed as error:  # the engine was closed before
            raise EngineDeadError(str(error)) from None
        return await self.waits.result(work.outcome)

    async def prepared(
        self,
        held: Hold,
        prompt: Prompt | Prepared,
        params: SamplingParams,
        languages: tuple[str | None, str | None],
    ) -> Prepared:
        """The prompt's parts, ready to submit. From now on `held` counts its media against the
        memory budget. `languages`: source and target. Raises InputError."""
        if isinstance(prompt, Prepared):
            await held.resize(0 if prompt.held else prompt.nbytes)
            return prompt
        return await self.read(held, self.inputs.begin, prompt, params, *languages)

    @asynccontextmanager
    async def all_prepared(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        languages: tuple[str | None, str | None],
    ) -> AsyncIterator[list[Prepared]]:
        """As `prepared`, of several prompts; whoever takes one of them holds no memory for it.
        Errors say which one they are of."""

        def begin(room: int) -> list[Prepared | Unread[Prepared]]:
            made, count = list[Prepared | Unread[Prepared]](), len(prompts)
            for number, prompt in enumerate(prompts, 1):
                call = partial(self.inputs.begin, prompt, params, *languages)
                with numbered("prompt", number, count):
                    made.append(_read_if_small(call, room // count))
            return made

        async with self.memory.hold(0) as held:
            begun = await self.run_in_thread(begin, self._room_at_once(held))
            await held.resize(sum(one.nbytes for one in begun if isinstance(one, Prepared)))
            ready = list[Prepared]()
            for number, one in enumerate(begun, 1):
                with numbered("prompt", number, len(prompts)):
                    ready.append(replace(await self._read(one, held), held=True))
            yield ready

    async def read(
        self,
        held: Hold,
        begin: Callable[P, Media | Unread[Media]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Media:
        """What `begin` gives, its media read, which `held` counts against the memory budget."""
        call = partial(begin, *args, **kwargs)
        begun = await self.run_in_thread(_read_if_small, call, self._room_at_once(held))
        if isinstance(begun, Unread):
            held.set(0)
            return await self._read(begun, held)
        await held.resize(begun.nbytes)
        return begun

    def _room_at_once(self, held: Hold) -> int:
        """Bytes that are held from now on, where nobody has to wait for them."""
        return SMALL_BYTES if held.take(SMALL_BYTES) else 0

    async def _read(self, begun: Media | Unread[Media], held: Hold) -> Media:
        """Waits for memory before anything large is read: for what is behind an address, then for
        what the media are expected to take, and where they take more for the rest."""
        if not isinstance(begun, Unread):
            return begun
        others = held.count
        if addresses := begun.addresses:
            for address in addresses:
                if begun.fetching.hosts:  # else it is refused
                    await held.resize(others + begun.fetched_bytes + begun.fetching.max_bytes)
                begun = await self.run_in_thread(begun.fetched, address)
                held.set(others + begun.fetched_bytes)
            await self.run_in_thread(begun.expected_bytes)  # of others it is known by now
        await held.resize(others + begun.fetched_bytes + begun.expected_bytes())
        media = await self.run_in_thread(begun.read)
        await held.resize(others + media.nbytes)
        return media


def _read_if_small(begin: Callable[[], Media | Unread[Media]], room: int) -> Media | Unread[Media]:
    """What `begin` gives; its media read if they are expected to take `room` bytes at most."""
    begun = begin()
    if isinstance(begun, Unread) and not begun.addresses and begun.expected_bytes() <= room:
        return begun.read()
    return begun
