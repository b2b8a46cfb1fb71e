"""Calls that wait for something else than the model while their engine is closed."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from paths import WHISPER

from antiphon.config.errors import EngineDeadError
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.sync_engine import Engine

SECONDS = 30.0  # the wait itself would not end


class Blocking:
    """A file that gives nothing until it is released."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def read(self, count: int = -1) -> bytes:
        self.asked.set()
        self.released.wait()
        return b""


async def silent(begun: asyncio.Event) -> AsyncIterator[np.ndarray]:
    begun.set()
    await asyncio.Event().wait()
    yield np.zeros(1)


async def end_of(call: asyncio.Task[object], engine: AsyncEngine) -> None:
    began = time.monotonic()
    closing = asyncio.create_task(engine.close())
    with pytest.raises(EngineDeadError, match="the engine was closed"):
        await call
    assert time.monotonic() - began < SECONDS
    await closing


def test_a_stream_of_a_silent_source_ends_with_its_engine() -> None:
    async def run() -> None:
        engine = await AsyncEngine(str(WHISPER), ray=False).start()
        begun = asyncio.Event()
        updates = engine.live(silent(begun))
        call = asyncio.create_task(anext(updates))
        await begun.wait()
        await end_of(call, engine)

    asyncio.run(run())


def test_calls_whose_recordings_do_not_come_end_with_their_engine() -> None:
    async def run() -> None:
        engine = await AsyncEngine(str(WHISPER), ray=False).start()
        file = Blocking()
        call = asyncio.create_task(engine.transcribe(file))
        while not file.asked.is_set():
            await asyncio.sleep(0.01)
        await end_of(call, engine)
        file.released.set()

    asyncio.run(run())


def test_a_caller_that_leaves_is_cancelled_as_ever() -> None:
    async def run() -> None:
        async with AsyncEngine(str(WHISPER), ray=False) as engine:
            begun = asyncio.Event()
            updates = engine.live(silent(begun))
            call = asyncio.create_task(anext(updates))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(run())


def test_a_microphone_that_says_nothing_does_not_keep_a_synchronous_caller() -> None:
    engine, asked, heard = Engine(str(WHISPER), ray=False), threading.Event(), threading.Event()

    def microphone() -> Iterator[np.ndarray]:
        asked.set()
        heard.wait()
        yield np.zeros(1)

    def close() -> None:
        asked.wait()
        engine.close()

    threading.Thread(target=close).start()
    began = time.monotonic()
    with pytest.raises(EngineDeadError, match="closed"):
        next(engine.live(microphone()))
    assert time.monotonic() - began < SECONDS
    heard.set()
