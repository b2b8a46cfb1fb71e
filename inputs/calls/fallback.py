"""When a window's text is not good enough, and what is tried then: openai/whisper's rules."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import PromptError
from antiphon.config.foreign import shown
from antiphon.inputs.calls.numbers import checked_count, checked_number, checked_optional, is_real

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai-whisper's and faster-whisper's


@dataclass(frozen=True)
class Fallback:
    """`temperatures` are tried one after another until the text is good enough. None switches a
    threshold off.

    best_of: samples at a temperature above 0, of which the likeliest counts.
    compression_ratio_threshold: a text that compresses better repeats itself.
    logprob_threshold: a text whose tokens are less likely on average is a guess.
    no_speech_threshold: a guess where <|nospeech|> is likelier than this is silence.
    """

    temperatures: tuple[float, ...] = TEMPERATURES
    best_of: int = 1
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6

    @property
    def tries_again(self) -> bool:
        return len(self.temperatures) > 1

    @property
    def once(self) -> "Fallback":
        """The first attempt counts, whatever it is."""
        return Fallback(self.temperatures[:1], self.best_of, None, None, None)

    def failed(
        self, compression_ratio: float, avg_logprob: float | None, no_speech: float | None
    ) -> bool:
        """Whether a text must be tried again. What is not known (None) counts as good."""
        limit = self.compression_ratio_threshold
        repeats = limit is not None and compression_ratio > limit
        if not repeats and not self._is_guess(avg_logprob):
            return False
        is_silence = self._says_silence(no_speech) and self._is_guess(avg_logprob)
        return not is_silence

    def is_silence(self, avg_logprob: float | None, no_speech: float | None) -> bool:
        """Whether the text that was settled on is none at all."""
        if not self._says_silence(no_speech):
            return False
        limit = self.logprob_threshold
        return limit is None or (avg_logprob is not None and avg_logprob <= limit)

    def _is_guess(self, avg_logprob: float | None) -> bool:
        limit = self.logprob_threshold
        return limit is not None and avg_logprob is not None and avg_logprob < limit

    def _says_silence(self, no_speech: float | None) -> bool:
        limit = self.no_speech_threshold
        return limit is not None and no_speech is not None and no_speech > limit


def checked_fallback(keywords: Any, fixed_temperature: float | None) -> Fallback:
    """Of the keywords of transcribe(). `fixed_temperature`: what parameters or checkpoint say, if
    the keywords don't. Raises PromptError."""
    temperatures: tuple[float, ...] = (
        TEMPERATURES if fixed_temperature is None else (fixed_temperature,)
    )
    if keywords.temperature is not None:
        temperatures = _temperatures(keywords.temperature)
    return Fallback(
        temperatures,
        checked_count("best_of", keywords.best_of),
        checked_optional("compression_ratio_threshold", keywords.compression_ratio_threshold),
        checked_optional("logprob_threshold", keywords.logprob_threshold),
        checked_optional("no_speech_threshold", keywords.no_speech_threshold),
    )


def _temperatures(value: Any) -> tuple[float, ...]:
    several = [value] if is_real(value) else value
    if not isinstance(several, Iterable) or isinstance(several, (str, bytes)):
        raise PromptError(f"temperature must be a number or a list of them, not {shown(value)}")
    temperatures = tuple(checked_number("temperature", number, 0.0) for number in several)
    if not temperatures:
        raise PromptError("temperature is an empty list: give at least one")
    return temperatures
