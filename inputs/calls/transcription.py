"""What a caller may ask of a transcription, checked before any sound is read or any engine runs."""

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
from antiphon.inputs.calls.options import checked_priority, one_of
from antiphon.inputs.whisper.format import WhisperFormat

# Names that other tools have. What they ask for is refused by name, never dropped.
OTHER_NAMES = {
    "append_punctuations": "there are no word timestamps yet",
    "batch_size": "all windows of all recordings are batched together: see the engine option max_num_seqs",
    "beam_size": "beam search is not there yet; params=SamplingParams(temperature=...) samples",
    "best_of": "several samples are not compared; call generate() with n samples",
    "carry_initial_prompt": "text before the window is not there yet; generate() takes a decoder prompt",
    "chunk_length": "give chunk_seconds=",
    "chunk_length_s": "give chunk_seconds=",
    "clip_timestamps": "cut the samples and give the pieces",
    "compression_ratio_threshold": "there is no fallback to higher temperatures yet",
    "compute_type": "give dtype= or quantization= to the engine",
    "condition_on_previous_text": "windows are decoded independently of each other",
    "file": "give the sound as the first argument",
    "fp16": "give dtype= to the engine",
    "generate_kwargs": "give language=, task= and params=SamplingParams(...)",
    "hallucination_silence_threshold": "there are no word timestamps yet; digital silence alone is left out",
    "hotwords": "text before the window is not there yet; generate() takes a decoder prompt",
    "initial_prompt": "text before the window is not there yet; generate() takes a decoder prompt",
    "lang": "give language=",
    "language_detection_segments": "the first window with sound decides",
    "language_detection_threshold": "the first window with sound decides; see language_probability of the result",
    "length_penalty": "beam search is not there yet",
    "log_prob_threshold": "no fallback yet; params=SamplingParams(logprobs=0) returns them",
    "log_progress": "give progress=, a function of the seconds done and the seconds in all",
    "logprob_threshold": "no fallback yet; params=SamplingParams(logprobs=0) returns them",
    "logprobs": "give params=SamplingParams(logprobs=...)",
    "max_initial_timestamp": "the checkpoint's generation config has it",
    "max_new_tokens": "give params=SamplingParams(max_tokens=...)",
    "max_tokens": "give params=SamplingParams(max_tokens=...)",
    "multilingual": "one language for a recording: cut it and give the pieces",
    "n": "transcribe() gives one text; call generate() for n samples",
    "no_repeat_ngram_size": "it comes from the checkpoint's generation config",
    "no_speech_threshold": "it is not computed yet; digital silence alone is left out",
    "num_beams": "beam search is not there yet",
    "output_format": "the command `antiphon transcribe` writes files; here the result is an object",
    "patience": "beam search is not there yet",
    "prefix": "generate() takes a decoder prompt",
    "prepend_punctuations": "there are no word timestamps yet",
    "prompt": "text before the window is not there yet; generate() takes a decoder prompt",
    "prompt_ids": "text before the window is not there yet; generate() takes a decoder prompt",
    "prompt_reset_on_temperature": "windows are decoded independently of each other",
    "repetition_penalty": "give params=SamplingParams(repetition_penalty=...)",
    "response_format": "the result is an object: text, segments, language, duration",
    "return_timestamps": "give timestamps=True or False",
    "sampling_rate": "give the sound as (samples, rate)",
    "seed": "give params=SamplingParams(seed=...)",
    "source_language": "give language=",
    "stream": "transcribe() returns when the recording is done",
    "suppress_blank": "the checkpoint's begin_suppress_tokens are obeyed",
    "suppress_tokens": "the checkpoint's are used; params=SamplingParams(logit_bias=...) adds to them",
    "target_language": "Whisper translates into English alone: task='translate'",
    "temperature": "give params=SamplingParams(temperature=...)",
    "timestamp_granularities": "give timestamps=True for segments; there are no word timestamps yet",
    "top_k": "give params=SamplingParams(top_k=...)",
    "top_p": "give params=SamplingParams(top_p=...)",
    "use_tqdm": "give progress=, a function of the seconds done and the seconds in all",
    "vad_filter": "voice activity is not detected yet; digital silence alone is left out",
    "vad_parameters": "voice activity is not detected yet; digital silence alone is left out",
    "verbose": "the engine logs under the name 'antiphon'; progress= is called with the seconds done",
    "without_timestamps": "give timestamps=False",
    "word_timestamps": "there are no word timestamps yet, segments have theirs",
}  # fmt: skip
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
Progress = Callable[[float, float], object]  # takes the seconds of sound done, and those in all


@dataclass(frozen=True)
class TranscriptionOptions:
    """Checked. `language`: a code of the checkpoint's, or None to find it. `longest`: samples of
    the longest window. `timeout`: seconds for the whole recording."""

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
            f"progress must be a function of two numbers, seconds done and in all, not {shown(progress)}"
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
    """Raises ConfigurationError for a keyword of transcribe() that does not exist."""
    if name in OTHER_NAMES:
        raise ConfigurationError(f"transcribe() has no option '{name}': {OTHER_NAMES[name]}")
    raise ConfigurationError(f"transcribe() has no option '{name}'.{nearest(name, NAMES)}")


def checked_timeout(timeout: Any) -> float | None:
    """Seconds, or None for no limit. Raises PromptError."""
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
            f"chunk_seconds must be between 1 and the model's window of {audio.window_seconds:g}, not {chunk_seconds!r:.60}"
        )
    return int(chunk_seconds * audio.sampling_rate)


def one_sample(params: Any) -> SamplingParams:
    """None is the defaults. Raises SamplingError for several samples, and for what is no SamplingParams."""
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise SamplingError(
            f"params must be SamplingParams, not {type(params).__name__}: SamplingParams.of() makes them from a mapping"
        )
    if params.n != 1:
        raise SamplingError(
            f"transcribe() gives one text for a recording, not n={params.n}: its windows would have to "
            "be combined. Call generate() with n for clips of one window"
        )
    return params


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
