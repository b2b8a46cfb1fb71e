"""Voice activity, as `faster_whisper.vad` names it."""

from dataclasses import replace
from typing import Any

import numpy as np

from antiphon.config.errors import ConfigurationError
from antiphon.inputs.audio.voice_activity import (
    RATE,
    FoundSpeech,
    VoiceOptions,
    speech_spans,
)
from antiphon.inputs.audio.voice_model import load_voice_model
from antiphon.inputs.calls.heard import PAUSE_IN_BATCHES

VadOptions = VoiceOptions
WINDOW_SECONDS = 30


def vad_options(parameters: Any, chunk_length: float | None, *, batched: bool) -> VadOptions:
    """Those of a call. `parameters`: a mapping, options or None. In batches spans of speech are no
    longer than a window. Raises TypeError for an unknown name."""
    if isinstance(parameters, VadOptions):
        options = parameters
    elif parameters is None and batched:
        options = VadOptions(min_silence_duration_ms=PAUSE_IN_BATCHES)
    else:
        options = VadOptions(**(parameters or {}))
    longest = float(chunk_length or WINDOW_SECONDS)
    return replace(options, max_speech_duration_s=longest) if batched else options


def get_speech_timestamps(
    audio: np.ndarray,
    vad_options: VadOptions | None = None,
    sampling_rate: int = RATE,
    **kwargs: Any,
) -> list[dict[str, int]]:
    """Where somebody speaks in samples [n] at 16 kHz: the first sample of each span, and the one
    behind its last. `kwargs`: options by name, where `vad_options` is left out.

    Raises ConfigurationError for another rate, and where silero-vad is not installed.
    """
    if sampling_rate != RATE:
        raise ConfigurationError(f"speech is found at {RATE} Hz, not {sampling_rate}: resample it")
    options = VadOptions(**kwargs) if vad_options is None else vad_options
    spans = found_speech(audio, options).spans
    return [{"start": start, "end": end} for start, end in spans]


def found_speech(samples: np.ndarray, options: VadOptions) -> FoundSpeech:
    """In samples [n] at 16 kHz."""
    spans = speech_spans(samples, options, load_voice_model().probabilities)
    return FoundSpeech(**vars(options), spans=tuple(spans))


def joined(samples: np.ndarray, speech: FoundSpeech) -> np.ndarray:
    """The samples [n] in which somebody speaks."""
    return np.concatenate([samples[:0], *(samples[start:end] for start, end in speech.spans)])
