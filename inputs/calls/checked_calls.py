"""The keywords of transcribe() of one checkpoint. Most calls give what others gave before them."""

from collections.abc import Mapping
from functools import lru_cache, partial
from types import NoneType
from typing import Any

from antiphon.config.sampling import SamplingParams
from antiphon.families.audio_config import AudioConfig
from antiphon.inputs.calls.options import check_token_ids
from antiphon.inputs.calls.transcription import TranscriptionOptions, check_options
from antiphon.inputs.whisper.format import WhisperFormat

CALLS_KEPT = 64
# What these say can't change behind a call's back.
_PLAIN = frozenset({NoneType, bool, int, float, str, SamplingParams})


class CheckedCalls:
    """As `check_options` and `check_token_ids`, which take as long as a tenth of the event loop's
    work for a short recording: what was checked before is not checked again."""

    def __init__(self, whisper: WhisperFormat, audio: AudioConfig) -> None:
        self._check = partial(_check, whisper, audio)
        # Told apart by their types, too: where True is right, 1 may be wrong.
        self._kept = lru_cache(CALLS_KEPT, typed=True)(self._check)

    def of(self, options: Mapping[str, Any], has_words: bool) -> TranscriptionOptions:
        """Raises as they do."""
        is_plain = all(type(value) in _PLAIN for value in options.values())
        return (self._kept if is_plain else self._check)(has_words, **options)


def _check(
    whisper: WhisperFormat, audio: AudioConfig, has_words: bool, /, **options: Any
) -> TranscriptionOptions:
    checked = check_options(whisper, audio, options, has_words)
    check_token_ids(checked.params, whisper.vocab_size)
    return checked
