"""Engines that are dropped without close() leave no thread behind."""

import asyncio
import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

from antiphon import AsyncEngine, Engine
from antiphon.config.errors import EngineDeadError

LIMIT_SECONDS = 20.0


def threads() -> set[threading.Thread]:
    """Of engines: tqdm's monitor lives as long as the process."""
    return {thread for thread in threading.enumerate() if thread.name != "tqdm_monitor"}


def wait_for_end_of(new: set[threading.Thread]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while remaining := [thread.name for thread in new if thread.is_alive()]:
        assert time.monotonic() < deadline, remaining
        time.sleep(0.02)


def test_a_dropped_engine_ends_its_threads(t5_folder: Path) -> None:
    before = threads()
    engine = Engine(str(t5_folder), ray=False)
    assert engine.generate("in words: 3", use_tqdm=False)[0].outputs[0].text == "three"
    inner = weakref.ref(engine._async)
    new = threads() - before
    names = {thread.name for thread in new}
    assert {"antiphon-engine", "antiphon-inputs-0", "DecoderWorker", "EncoderWorker"} <= names
    del engine
    gc.collect()
    wait_for_end_of(new | (threads() - before))
    gc.collect()
    assert inner() is None


def test_an_engine_in_use_is_not_dropped(t5_folder: Path) -> None:
    stream = Engine(str(t5_folder), ray=False).stream("in words: 3")
    gc.collect()
    assert "".join(delta.text for delta in stream) == "three"


def test_a_closed_engine_is_not_closed_again(t5_folder: Path) -> None:
    with Engine(str(t5_folder), ray=False) as engine:
        finalizer, inner = engine._dropped, engine._async._dropped
    assert inner is not None
    assert not finalizer.alive
    assert not inner.alive


def test_an_async_engine_is_collected_after_its_loop(t5_folder: Path) -> None:
    before = threads()

    async def use() -> str:
        engine = await AsyncEngine(str(t5_folder), ray=False).start()
        return (await engine.generate("in words: 3")).outputs[0].text

    assert asyncio.run(use()) == "three"
    new = threads() - before
    gc.collect()
    wait_for_end_of(new | (threads() - before))


def test_while_its_loop_runs_it_serves_open_requests(t5_folder: Path) -> None:
    async def use() -> str:
        engine = await AsyncEngine(str(t5_folder), ray=False).start()
        reference, call = weakref.ref(engine), asyncio.create_task(engine.generate("in words: 3"))
        del engine
        gc.collect()
        text = (await call).outputs[0].text
        del call
        gc.collect()
        kept = reference()
        assert kept is not None
        await kept.close()
        with pytest.raises(EngineDeadError):
            await kept.generate("in words: 3")
        return text

    assert asyncio.run(use()) == "three"
