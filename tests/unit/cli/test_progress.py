"""How far a call is: seconds of sound done, within one long recording too."""

import asyncio
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import RECORDINGS

from antiphon import AsyncEngine, Engine
from antiphon.cli import console as console_module
from antiphon.cli.console import LONG, Console
from antiphon.config.errors import AudioError, PromptError, RequestFailed
from antiphon.engine.progress import TogetherDone


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> Iterator[Engine]:
    with Engine(str(whisper_folder), ray=False) as engine:
        yield engine


def test_of_a_long_recording(engine: Engine) -> None:
    calls: list[tuple[float, float]] = []
    result = engine.transcribe(
        RECORDINGS / "long.opus", progress=lambda *seconds: calls.append(seconds)
    )
    done = [seconds for seconds, _ in calls]
    assert {in_all for _, in_all in calls} == {result.duration}
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0.0, result.duration)
    assert len(calls) > result.duration / 8  # windows of at most 8 s, and the start
    assert max(np.diff(done)) <= 8.0


def test_digital_silence_is_done_at_once(engine: Engine) -> None:
    calls: list[tuple[float, float]] = []
    engine.transcribe(
        np.zeros(20 * 16_000, np.float32), progress=lambda *seconds: calls.append(seconds)
    )
    assert calls == [(20.0, 20.0)]


def test_of_many_together(engine: Engine) -> None:
    calls: list[tuple[float, float]] = []
    names = ["call.wav", "none.wav", "wecker.wav", "long.opus"]
    results = engine.transcribe_all(
        [RECORDINGS / name for name in names], progress=lambda *seconds: calls.append(seconds)
    )
    assert isinstance(results[1], AudioError)
    seconds = sum(result.duration for result in results if not isinstance(result, Exception))
    assert calls[-1] == (pytest.approx(seconds), pytest.approx(seconds))
    for (done, in_all), (later, in_all_later) in itertools.pairwise(calls):
        assert done <= later + 1e-9
        assert in_all <= in_all_later + 1e-9
        assert later <= in_all_later + 1e-9


def test_what_failed_counts_as_done() -> None:
    calls: list[tuple[float, float]] = []
    together = TogetherDone(lambda *seconds: calls.append(seconds))
    with together.one_more() as first:
        first(0.0, 30.0)
        with together.one_more() as second:
            second(0.0, 10.0)
            first(10.0, 30.0)
            second(10.0, 10.0)
    assert calls == [(0.0, 30.0), (0.0, 40.0), (10.0, 40.0), (20.0, 40.0), (40.0, 40.0)]


def test_in_the_callers_loop(whisper_folder: Path) -> None:
    async def run() -> list[float]:
        calls: list[float] = []
        loop = asyncio.get_running_loop()

        def progress(done: float, in_all: float) -> None:
            assert asyncio.get_running_loop() is loop
            calls.append(done / in_all)

        async with AsyncEngine(str(whisper_folder), ray=False) as engine:
            await engine.transcribe(RECORDINGS / "call.wav", progress=progress)
        return calls

    assert asyncio.run(run()) == [0.0, 1.0]


def test_a_progress_that_fails_ends_its_own_call_alone(engine: Engine) -> None:
    def fail(done: float, in_all: float) -> None:
        if done:
            raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake"):
        engine.transcribe(RECORDINGS / "call.wav", progress=fail)
    (result,) = engine.transcribe_all([RECORDINGS / "call.wav"], progress=fail)
    assert isinstance(result, RequestFailed)
    assert engine.transcribe(RECORDINGS / "call.wav", progress=None).text == "call seven nine zero"


@pytest.mark.parametrize("progress", [True, "yes", 5, []])
def test_what_is_no_function(engine: Engine, progress: Any) -> None:
    for call in (engine.transcribe, engine.transcribe_as_completed):
        with pytest.raises(PromptError, match="progress must be a function of two numbers"):
            call(
                [RECORDINGS / "call.wav"]
                if call == engine.transcribe_as_completed
                else RECORDINGS / "call.wav",
                progress=progress,
            )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("inputs", "seconds", "quiet", "shown", "hidden"),
    [
        (1, 600.0, False, "50%", "file"),
        (1, 600.0, False, "300/600 s of sound", "file"),
        (1, LONG - 1, False, "", "s of sound"),
        (2, 600.0, False, "300 s of sound", "/600"),
        (2, 600.0, True, "", "s of sound"),
        (1, 600.0, True, "", "s of sound"),
    ],
)
def test_the_bar_of_the_command_line(
    inputs: int,
    seconds: float,
    quiet: bool,
    shown: str,
    hidden: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Terminal()
    monkeypatch.setattr(console_module.sys, "stderr", screen)
    with Console(quiet, inputs, "file") as console:
        console.progress(0.0, seconds)
        for share in (0.5, 1.0):
            console._bar.mininterval = 0.0  # a bar is drawn some times a second
            console.progress(share * seconds, seconds)
        for _ in range(inputs):
            console.advance()
    assert shown in screen.getvalue()
    assert hidden not in screen.getvalue()
    if not shown:
        assert screen.getvalue() == ""


def test_no_bar_where_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module.sys, "stderr", stream := io.StringIO())
    with Console(False, 1, "file") as console:
        console.progress(0.0, 600.0)
        console.progress(600.0, 600.0)
    assert stream.getvalue() == ""
