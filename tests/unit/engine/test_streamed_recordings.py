"""Transcriptions as they are made: who asks for their parts, and how long they wait to begin."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_speech import GOOD, ScriptedEngine, noise

from antiphon.config.errors import RequestExpired
from antiphon.engine.budget import ByteBudget
from antiphon.engine.callers import caller_number
from antiphon.engine.outputs import Transcription
from antiphon.engine.transcribing.attempts import WindowDecoder
from antiphon.engine.transcribing.stream import StreamingTranscriber


class StreamedEngine(ScriptedEngine):
    """All text of a request is here when it is submitted. `callers`: of what was asked."""

    callers: list[int]

    def submit(self, prepared: Any, prompt: list[int], **options: Any) -> Any:
        self.callers.append(caller_number())
        asked = super().submit(prepared, prompt, **options)
        asked.future, asked.updated = asyncio.Future(), asyncio.Event()
        asked.future.set_result(None)
        asked.text = SimpleNamespace(take=lambda final=False: f" {GOOD}")
        return asked


@pytest.fixture
def engine(whisper_folder: Path) -> StreamedEngine:
    engine = StreamedEngine(whisper_folder)
    engine.callers = []
    engine.begin(lambda asked: 0.9 if asked.params.logprob_token_ids else GOOD)
    return engine


async def heard(engine: StreamedEngine, seconds: float, **options: Any) -> list[Any]:
    stream = StreamingTranscriber(engine).stream(noise(seconds), **options)
    return [piece async for piece in stream]


def test_all_requests_of_a_streamed_recording_are_of_one_caller(
    engine: StreamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that ask for the language and for the times of words, too."""

    async def with_words(decoder: WindowDecoder, output: Any, *_: Any) -> Any:
        engine.callers.append(caller_number())
        return output

    async def scenario() -> None:
        for count in (1, 2):
            await heard(engine, 7)
            assert len(set(engine.callers)) == count
            assert caller_number() not in engine.callers, "the program's own is another one"

    monkeypatch.setattr(WindowDecoder, "with_words", with_words)
    asyncio.run(scenario())
    languages = [asked for asked in engine.asked if asked.params.logprob_token_ids]
    assert len(languages) == 2
    assert len(engine.callers) > 2 * len(languages)


def test_the_wait_for_memory_counts_against_the_timeout(engine: StreamedEngine) -> None:
    async def scenario() -> None:
        budget = ByteBudget(1000)
        engine.hold_memory = budget.hold
        async with budget.hold(1000):
            with pytest.raises(RequestExpired, match=r"after 0\.01 s"):
                await asyncio.wait_for(heard(engine, 3, timeout=0.01), 5)
        *_, whole = await heard(engine, 3, timeout=5)
        assert isinstance(whole, Transcription)

    asyncio.run(scenario())
