"""Keywords of transcribe() that were checked before are not checked again, and only these."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.config.errors import ConfigurationError, PromptError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.calls import checked_calls
from antiphon.inputs.processor import InputProcessor


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of all calls that were really checked."""
    real, checks = checked_calls.check_options, list[dict[str, Any]]()

    def note(whisper: Any, audio: Any, options: Any, has_words: bool) -> Any:
        checks.append(dict(options))
        return real(whisper, audio, options, has_words)

    monkeypatch.setattr(checked_calls, "check_options", note)
    return checks


@pytest.fixture
def inputs(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"language": "en", "temperature": 0.0, "timestamps": False},
        {"params": SamplingParams(max_tokens=5, stop=["so"]), "timeout": 3.5},
    ],
)
def test_a_call_like_one_before_is_not_checked(
    inputs: InputProcessor, checks: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    first = inputs.check_transcription(**options)
    assert inputs.check_transcription(**options) is first
    assert checks == [options]


@pytest.mark.parametrize(
    "options",
    [{"temperature": [0.0, 0.2]}, {"suppress_tokens": [1, 2]}, {"progress": lambda *_: None}],
)
def test_what_may_change_is_checked_each_time(
    inputs: InputProcessor, checks: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    assert inputs.check_transcription(**options) == inputs.check_transcription(**options)
    assert checks == [options, options]


def test_equal_values_of_other_types_are_told_apart(inputs: InputProcessor) -> None:
    inputs.check_transcription(timestamps=True)
    with pytest.raises(PromptError):
        inputs.check_transcription(timestamps=1)
    inputs.check_transcription(best_of=1)
    with pytest.raises(PromptError):
        inputs.check_transcription(best_of=True)


def test_a_call_that_was_refused_is_refused_again(inputs: InputProcessor) -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="has no option 'whisper'"):
            inputs.check_transcription(whisper="small")
        with pytest.raises(PromptError):
            inputs.check_transcription(language="Klingon")


def test_an_engine_without_word_times_refuses_them_whatever_was_checked(
    inputs: InputProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "has_words", True)
    inputs.check_transcription(word_timestamps=True)
    monkeypatch.setattr(inputs, "has_words", False)
    with pytest.raises((ConfigurationError, PromptError)):
        inputs.check_transcription(word_timestamps=True)
