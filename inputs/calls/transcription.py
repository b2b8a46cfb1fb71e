"""The keywords of transcribe(), checked before any audio is read or any engine runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from antiphon.config.errors import ConfigurationError, PromptError, SamplingError, nearest
from antiphon.config.foreign import shown
from antiphon.config.sampling import SamplingParams
from antiphon.families.audio_config import AudioConfig
from antiphon.inputs.calls.foreign_names import FOREIGN_NAMES
from antiphon.inputs.calls.options import checked_priority, one_of
from antiphon.inputs.whisper.format import WhisperFormat

NAMES = [
    "language",
    "task",
    "timestamps",
    "chunk_seconds",
    "params",
    "priority",
    "timeout",
    "progress",
]
Progress = Callable[[float, float], object]  # takes the seconds of audio done, and those in all


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
    whisper: WhisperFormat,
    audio: AudioConfig,
    *,
    language: str | None = None,
    task: str | None = None,
    timestamps: bool = True,
    chunk_seconds: float | None = None,
    params: SamplingParams | None = None,
    priority: int = 0,
    timeout: float | None = None,
    progress: Progress | None = None,
    sampling_params: SamplingParams | None = None,
    **unknown: Any,
) -> TranscriptionOptions:
    """Raises ConfigurationError for an unknown name, PromptError or SamplingError for a value."""
    for name in unknown:
        refuse_name(name)
    code, task = whisper.check(language, task)
    if not isinstance(timestamps, (bool, np.bool_)):
        raise PromptError(f"timestamps must be True or False, not {timestamps!r:.60}")
    if progress is not None and not callable(progress):
        raise PromptError(
            "progress must be a function of two numbers, seconds done and in all, "
            f"not {shown(progress)}"
        )
    return TranscriptionOptions(
        language=code,
        task=task,
        timestamps=bool(timestamps),
        longest=checked_window(chunk_seconds, audio),
        params=one_sample(one_of(params, sampling_params)),
        priority=checked_priority(priority),
        timeout=checked_timeout(timeout),
        progress=progress,
    )


def refuse_name(name: str) -> None:
    """Raises ConfigurationError for a keyword that transcribe() does not have."""
    if name in FOREIGN_NAMES:
        raise ConfigurationError(f"transcribe() has no option '{name}': {FOREIGN_NAMES[name]}")
    raise ConfigurationError(f"transcribe() has no option '{name}'.{nearest(name, NAMES)}")


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
