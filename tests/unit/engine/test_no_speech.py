"""Windows in which the model heard nobody speak are told in the result."""

from pathlib import Path

import pytest
from scripted_speech import BAD, ScriptedEngine

from antiphon.inputs.audio.sound import Skipped


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> ScriptedEngine:
    return ScriptedEngine(whisper_folder)


def test_what_is_dropped_in_sequence_is_told(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: (BAD, -1.5, 0.9))
    result = engine.transcribe(3, mode="sequential")
    assert (result.text, result.skipped) == ("", [Skipped(0.0, 3.0, "no speech")])


@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_a_window_without_text_is_told(engine: ScriptedEngine, mode: str) -> None:
    engine.begin(lambda asked: "")
    result = engine.transcribe(3, mode=mode)
    assert (result.text, result.segments) == ("", [])
    assert result.skipped == [Skipped(0.0, 3.0, "no speech")]
