"""Voice activity, as `faster_whisper.vad` names it."""

from dataclasses import replace
from typing import Any

import numpy as np

from antiphon.inputs.audio.voice_activity import VoiceOptions, speech_spans
from antiphon.inputs.audio.voice_model import load_voice_model

VadOptions = VoiceOptions
WINDOW_SECONDS = 30
PAUSE_IN_BATCHES = 160.0  # ms that end a span of speech where windows are decoded together


def vad_options(given: Any, chunk_length: float | None, *, batched: bool) -> VadOptions:
    """Those of a call. `given`: a mapping, options or None. In batches spans of speech are no
    longer than a window. Raises TypeError for an unknown name."""
    if isinstance(given, VadOptions):
        options = given
    elif given is None and batched:
        options = VadOptions(min_silence_duration_ms=PAUSE_IN_BATCHES)
    else:
        options = VadOptions(**(given or {}))
    longest = float(chunk_length or WINDOW_SECONDS)
    return replace(options, max_speech_duration_s=longest) if batched else options


def speech_of(samples: np.ndarray, options: VadOptions) -> np.ndarray:
    """The samples [n] at 16 kHz in which somebody speaks, joined. Raises ConfigurationError where
    silero-vad is not installed."""
    spans = speech_spans(samples, options, load_voice_model().probabilities)
    return np.concatenate([samples[:0], *(samples[start:end] for start, end in spans)])
