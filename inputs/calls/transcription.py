"""The keywords of transcribe(), checked before any audio is read or any engine runs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from antiphon.config.errors import ConfigurationError, PromptError, SamplingError, nearest
from antiphon.config.foreign import shown
from antiphon.config.sampling import SamplingParams
from antiphon.families.audio_config import AudioConfig
from antiphon.inputs.calls.foreign_names import FOREIGN_NAMES
from antiphon.inputs.calls.options import checked_priority
from antiphon.inputs.whisper.format import WhisperFormat

Progress = Callable[[float, float], object]  # takes the seconds of audio done, and those in all

# Other names of the same keywords: openai-whisper's, faster-whisper's, vLLM's.
ALIASES = {"sampling_params": "params"}


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """What a caller may give, as it was given. docs/transcription.md says what each one means."""

    language: Any = None
    task: Any = None
    timestamps: Any = True
    chunk_seconds: Any = None
    params: Any = None
    priority: Any = 0
    timeout: Any = None
    progress: Any = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Keywords":
        """Raises ConfigurationError for an unknown name, and for one that is given twice."""
        given: dict[str, Any] = {}
        for name, value in options.items():
            own = ALIASES.get(name, name)
            if own not in NAMES:
                refuse_name(name)
            if given.get(own) is not None and value is not None:
                raise ConfigurationError(f"{name} and {own} are the same: give one of them")
            if own not in given or value is not None:
                given[own] = value
        return cls(**given)


NAMES = [field.name for field in fields(Keywords)]


@dataclass(frozen=True)
class TranscriptionOptions:
    """Checked keywords of one call.

    `language`: a code of the checkpoint, or None to detect it. `longest`: samples of the longest
    window. `timeout`: seconds for the whole recording.
    """

    language: str | None
    task: str
    timestamps: bool
    longest: int
    params: SamplingParams
    priority: int
    timeout: float | None
    progress: Progress | None = None


def check_options(
    whisper: WhisperFormat, audio: AudioConfig, options: Mapping[str, Any]
) -> TranscriptionOptions:
    """Raises ConfigurationError for an unknown name, PromptError or SamplingError for a value."""
    given = Keywords.of(options)
    code, task = whisper.check(given.language, given.task)
    if given.progress is not None and not callable(given.progress):
        raise PromptError(
            "progress must be a function of two numbers, seconds done and in all, "
            f"not {shown(given.progress)}"
        )
    return TranscriptionOptions(
        language=code,
        task=task,
        timestamps=checked_flag("timestamps", given.timestamps),
        longest=checked_window(given.chunk_seconds, audio),
        params=one_sample(given.params),
        priority=checked_priority(given.priority),
        timeout=checked_timeout(given.timeout),
        progress=given.progress,
    )


def refuse_name(name: str) -> None:
    """Raises ConfigurationError for a keyword that transcribe() does not have."""
    if name in FOREIGN_NAMES:
        raise ConfigurationError(f"transcribe() has no option '{name}': {FOREIGN_NAMES[name]}")
    raise ConfigurationError(f"transcribe() has no option '{name}'.{nearest(name, NAMES)}")


def checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise PromptError(f"{name} must be True or False, not {value!r:.60}")
    return bool(value)


def checked_timeout(timeout: Any) -> float | None:
    """A timeout in seconds, None for no limit. Raises PromptError."""
    if timeout is None:
        return None
    try:
        seconds = float(timeout) if _is_real(timeout) else math.nan
    except OverflowError:  # a whole number beyond all floats
        seconds = math.inf if timeout > 0 else -math.inf
    if math.isnan(seconds) or seconds < 0:
        raise PromptError(f"timeout must be seconds, or None for no limit, not {shown(timeout)}")
    return seconds


def checked_window(chunk_seconds: Any, audio: AudioConfig) -> int:
    """Samples of the longest window; None is the model's. Raises PromptError."""
    if chunk_seconds is None:
        return audio.window
    if not _is_real(chunk_seconds) or not 1.0 <= chunk_seconds <= audio.window_seconds:
        raise PromptError(
            f"chunk_seconds must be between 1 and the model's window of {audio.window_seconds:g}, "
            f"not {chunk_seconds!r:.60}"
        )
    return int(chunk_seconds * audio.sampling_rate)


def one_sample(params: Any) -> SamplingParams:
    """The parameters of a transcription; None stands for the defaults.

    Raises SamplingError for several samples, and for anything that is no SamplingParams.
    """
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise SamplingError(
            f"params must be SamplingParams, not {type(params).__name__}: "
            "SamplingParams.of() makes them from a mapping"
        )
    if params.n != 1:
        raise SamplingError(
            f"transcribe() gives one text for a recording, not n={params.n}: its windows would "
            "have to be combined. Call generate() with n for clips of one window"
        )
    return params


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
