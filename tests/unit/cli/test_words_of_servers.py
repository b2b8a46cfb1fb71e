"""Times of words with --server: transcriptions have them, translations don't."""

from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.cli.remote import transcriptions
from antiphon.config.errors import ConfigurationError


class Asked(SimpleNamespace):
    """A client that notes what it is asked, and answers nothing."""

    def transcribe(self) -> None: ...

    def translate(self) -> None: ...

    def batch(self, sounds: Any, **options: Any) -> list[Any]:
        self.options = options
        return []


def asked(task: str, **options: Any) -> dict[str, Any]:
    client: Any = Asked()
    assert not list(transcriptions(client, [], task=task, timestamps=True, **options))
    options = client.options
    return options


def test_words_of_a_transcription() -> None:
    options = asked("transcribe", word_timestamps=True)
    assert options["timestamp_granularities"] == ["word", "segment"]


def test_a_translation_is_asked_for_none() -> None:
    assert "timestamp_granularities" not in asked("translate", word_timestamps=False)
    with pytest.raises(ConfigurationError, match="word_timestamps"):
        asked("Translate ", word_timestamps=True)
