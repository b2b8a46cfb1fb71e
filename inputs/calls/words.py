"""The keywords of transcribe() that concern words."""

from typing import Any

from antiphon.config.errors import ConfigurationError, PromptError
from antiphon.config.foreign import shown
from antiphon.inputs.calls.numbers import checked_flag
from antiphon.inputs.whisper.words import APPENDED, PREPENDED, WordRules


def checked_words(keywords: Any, enabled: bool) -> WordRules | None:
    """None where no words are asked for. `enabled`: the engine keeps what they are made of.

    Raises PromptError for a value, ConfigurationError where the engine has word times turned off.
    """
    wanted = checked_flag("word_timestamps", keywords.word_timestamps)
    rules = WordRules(
        _marks("prepend_punctuations", keywords.prepend_punctuations, PREPENDED),
        _marks("append_punctuations", keywords.append_punctuations, APPENDED),
    )
    if not wanted:
        return None
    if not enabled:
        raise ConfigurationError(
            "word_timestamps=True: this engine was started with enable_word_timestamps=False"
        )
    return rules


def _marks(name: str, value: Any, default: str) -> str:
    if value is None:
        return default
    if not isinstance(value, str):
        raise PromptError(f"{name} must be a text of punctuation marks, not {shown(value)}")
    return value
