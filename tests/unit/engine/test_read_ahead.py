"""Recordings of one call are read as the workers get to them."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from antiphon.engine.loop_thread import LoopThread
from antiphon.engine.read_ahead import Begun, ReadAhead


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.stop()


def test_there_is_room_while_fewer_windows_are_open() -> None:
    ahead, rooms = ReadAhead(4, 30.0), []
    ahead.call_on_room(lambda: rooms.append(ahead.open))
    first = ahead.begin(75.0)
    assert (ahead.open, ahead.has_room) == (3, True)
    second = ahead.begin(0.0)  # of unknown length: at least one window
    assert (ahead.open, ahead.has_room) == (4, False)
    seen: list[tuple[float, float]] = []
    progress = first.also(lambda done, in_all: seen.append((done, in_all)))
    progress(0.0, 300.0)  # it is longer than it looked
    assert (ahead.open, rooms) == (11, [])
    progress(240.0, 300.0)
    assert (ahead.open, rooms) == (3, [3])
    progress(300.0, 300.0)
    assert ahead.open == 2
    first.end()
    second.end()
    assert ahead.open == 0
    assert seen == [(0.0, 300.0), (240.0, 300.0), (300.0, 300.0)]


def test_many_recordings_before_slow_workers_are_read_as_windows_are_done(
    thread: LoopThread,
) -> None:
    """300 recordings of four windows; workers that do one window at a time."""
    ahead, lock = ReadAhead(10, 30.0), threading.Lock()
    held, most_held, taken = 0, 0, 0

    def recordings() -> Iterator[tuple[int, Begun]]:
        nonlocal held, most_held, taken
        for number in range(300):
            with lock:
                taken, held = taken + 1, held + 4
                most_held = max(most_held, held)
            yield number, ahead.begin(120.0)

    async def transcribe(item: tuple[int, Begun]) -> int:
        nonlocal held
        number, begun = item
        progress = begun.also(lambda done, in_all: None)
        try:
            for window in range(4):
                async with one_at_a_time:
                    await asyncio.sleep(0)
                progress(30.0 * (window + 1), 120.0)
            if number % 7 == 0:
                raise ValueError("a bad one")
            return number
        finally:
            with lock:
                held -= 4
            begun.end()

    one_at_a_time = asyncio.Lock()
    results: dict[int, Any] = dict(thread.as_completed(recordings(), transcribe, ahead))
    assert sorted(results) == list(range(300))
    assert sum(isinstance(result, int) for result in results.values()) == 300 - 43
    assert most_held <= 10 + 2 * 4 + 4
    assert ahead.open == 0


def test_a_recording_longer_than_all_room_is_taken_when_nothing_else_runs(
    thread: LoopThread,
) -> None:
    ahead = ReadAhead(1, 30.0)

    async def transcribe(begun: Begun) -> int:
        begun.also(lambda done, in_all: None)(0.0, 3000.0)
        await asyncio.sleep(0.01)
        begun.end()
        return ahead.open

    items = (ahead.begin(3000.0) for _ in range(5))
    assert dict(thread.as_completed(items, transcribe, ahead)) == dict.fromkeys(range(5), 0)


def test_room_in_the_middle_of_a_long_recording_lets_the_next_one_in(thread: LoopThread) -> None:
    ahead, second_began = ReadAhead(3, 30.0), threading.Event()

    async def transcribe(item: tuple[int, Begun]) -> int:
        number, begun = item
        if number == 1:
            second_began.set()
        else:
            begun.also(lambda done, in_all: None)(60.0, 120.0)  # two windows are left
            while not second_began.is_set():
                await asyncio.sleep(0.001)
        begun.end()
        return number

    items = ((number, ahead.begin(120.0)) for number in range(2))
    assert len(dict(thread.as_completed(items, transcribe, ahead))) == 2
