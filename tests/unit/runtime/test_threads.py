"""Threads that a program does not wait for: what happens where none can be started, or are shut."""

import asyncio
import threading

import pytest

from antiphon.config.errors import EngineDeadError
from antiphon.engine.preparation import Preparation
from antiphon.runtime.threads import DaemonThreads, ThreadsClosed


def no_more(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_work_that_no_thread_could_be_started_for_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, done = DaemonThreads(2, "test"), list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(done.append, "refused")
    began = threading.Barrier(2)
    both = [threads.submit(began.wait, 5) for _ in range(2)]  # at once, each in its thread
    assert sorted(future.result(5) for future in both) == [0, 1]
    assert done == []
    threads.shutdown()
    with pytest.raises(ThreadsClosed):
        threads.submit(done.append, "late")


def test_a_thread_that_cannot_be_started_is_no_engine_that_was_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def call() -> None:
        await preparation.run_in_thread(int)

    preparation = Preparation(None)  # type: ignore[arg-type]
    preparation.start()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start"):
            asyncio.run(call())
    preparation.stop()
    with pytest.raises(EngineDeadError, match="shut down"):
        asyncio.run(call())
