"""What of a transcription is done on the event loop, and what in a thread."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_speech import GOOD, ScriptedEngine

from antiphon.client.sound import wav
from antiphon.engine.transcribing import segments
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.serve.uploads import Upload


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> ScriptedEngine:
    return ScriptedEngine(whisper_folder)


@pytest.mark.parametrize("windows", [1, 3])
def test_few_tokens_need_no_thread(
    engine: ScriptedEngine, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threaded: list[str] = []

    async def run_in_thread(function: Any, *arguments: Any) -> Any:
        threaded.append(function.__name__)
        return function(*arguments)

    monkeypatch.setattr(engine, "run_in_thread", run_in_thread)
    engine.begin(lambda asked: GOOD)
    audio = engine.inputs.audio
    assert audio is not None
    seconds = windows * audio.window_seconds - 1
    few = engine.transcribe(seconds, timestamps=False)
    assert "transcription" not in threaded
    monkeypatch.setattr(segments, "FEW_TOKENS", 1)
    many = engine.transcribe(seconds, timestamps=False)
    assert threaded[-1] == "transcription"
    assert many == few
    assert few.text.split()[: len(GOOD.split())] == GOOD.split()
    assert len(few.segments) >= windows


def test_an_upload_is_measured_without_a_thread(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what its samples will take; another open file is read for that."""
    threaded: list[str] = []

    async def run_in_thread(function: Any, *arguments: Any) -> Any:
        threaded.append(function.__name__)
        return function(*arguments)

    monkeypatch.setattr(engine, "run_in_thread", run_in_thread)
    engine.begin(lambda asked: GOOD)
    content, rate = wav(np.ones(16_000, "<i2"), 16_000), 16_000
    for file in (Upload(io.BytesIO(content), len(content), rate), io.BytesIO(content)):
        call = Transcriber(engine).transcribe(file, language="en", timestamps=False)
        asyncio.run(call)
    assert threaded == ["read", "expected_bytes", "read"]
