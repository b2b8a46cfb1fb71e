"""What a caller may ask of a live transcription."""

from dataclasses import dataclass, field
from typing import Any

from antiphon.config.errors import ConfigurationError, PromptError
from antiphon.config.foreign import shown
from antiphon.inputs.calls.numbers import is_finite

# Keywords of transcribe() that need the whole recording, and those that a stream sets itself.
FOR_RECORDINGS = {"timeout", "progress", "clip_timestamps", "vad_filter", "vad_parameters", "mode"}
SET_HERE = {"timestamps", "without_timestamps", "word_timestamps", "chunk_seconds", "prefix"}
LEAST_SECONDS = 0.05


@dataclass(frozen=True)
class LiveOptions:
    """Checked options of one stream.

    interval: seconds of new sound that a hypothesis waits for. One is under way at a time, so that
    a busy engine is asked less often. max_delay: seconds after which a hypothesis is given up for
    one that hears more; twice as many after each that was. context: characters of confirmed text
    that the model is given. transcription: keywords of transcribe() for each hypothesis.
    """

    interval: float = 0.5
    max_delay: float = 5.0
    context: int = 200
    language: str | None = None
    initial_prompt: str = ""
    transcription: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        interval: Any = 0.5,
        max_delay: Any = 5.0,
        condition_on_previous_text: bool = True,
        language: Any = None,
        initial_prompt: Any = None,
        **transcription: Any,
    ) -> "LiveOptions":
        """Raises ConfigurationError for names that a stream has no use for, and PromptError for
        values; `transcription` is still to be checked."""
        for name in transcription:
            if name in FOR_RECORDINGS | SET_HERE:
                why = "it needs the whole recording" if name in FOR_RECORDINGS else "it is set"
                raise ConfigurationError(f"live() has no option {name!r}: {why}")
        if initial_prompt is not None and not isinstance(initial_prompt, str):
            raise PromptError(f"initial_prompt of live() must be text, not {shown(initial_prompt)}")
        transcription.setdefault("temperature", 0.0)  # further attempts would come too late
        return cls(
            _seconds("interval", interval),
            _seconds("max_delay", max_delay),
            cls.context if condition_on_previous_text else 0,
            language,
            initial_prompt or "",
            transcription,
        )


def _seconds(name: str, value: Any) -> float:
    if not is_finite(value) or value < LEAST_SECONDS:
        raise PromptError(f"{name} must be at least {LEAST_SECONDS} seconds, not {shown(value)}")
    return float(value)
