"""Threads that a program does not wait for: what happens where none can be started, or are shut."""

import asyncio
import threading

import pytest

from antiphon.config.errors import EngineDeadError
from antiphon.engine.preparation import Preparation
from antiphon.runtime.threads import DaemonThreads, ForLoop, ThreadsClosed


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


def test_the_outcome_of_work_for_a_loop_is_told_there() -> None:
    begun, goes_on, done = threading.Event(), threading.Event(), list[str]()

    def slow() -> str:
        begun.set()
        goes_on.wait(5)
        return "late, but wanted"

    async def run() -> None:
        loop, threads = asyncio.get_running_loop(), DaemonThreads(1, "test")
        right, wrong = ForLoop(lambda: 5, loop), ForLoop(lambda: 1 // 0, loop)
        left, last = ForLoop(lambda: done.append("left"), loop), ForLoop(slow, loop)
        left.outcome.cancel()
        after = ForLoop(lambda: done.append("after"), loop)
        for work in (right, wrong, left, last, after):
            threads.do(work)
        assert await right.outcome == 5
        with pytest.raises(ZeroDivisionError):
            await wrong.outcome
        await asyncio.to_thread(begun.wait, 5)
        threads.shutdown(wait=False, cancel_futures=True)
        goes_on.set()
        assert await last.outcome == "late, but wanted"
        with pytest.raises(asyncio.CancelledError):
            await after.outcome

    asyncio.run(run())
    assert done == []


def test_work_that_outlives_its_loop_disturbs_nobody() -> None:
    loop = asyncio.new_event_loop()
    works = [ForLoop(int, loop), ForLoop(int, loop)]
    loop.close()
    works[0].run()
    works[1].cancel()


def test_who_waits_for_work_that_stops_an_iteration_is_told() -> None:
    """No future takes a StopIteration: its caller would wait for ever."""

    async def run() -> None:
        threads = DaemonThreads(1, "test")
        work: ForLoop[None] = ForLoop(lambda: next(iter(())), asyncio.get_running_loop())
        threads.do(work)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(work.outcome, 5)
        threads.shutdown()

    asyncio.run(run())
