"""Where the whole of a transcription is made: it is the same on the event loop and in a thread."""

from pathlib import Path
from typing import Any

import pytest
from scripted_speech import GOOD, ScriptedEngine

from antiphon.engine.transcribing import segments


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
