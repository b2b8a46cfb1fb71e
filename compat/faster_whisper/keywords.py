"""faster-whisper's options of a call, as those of the engine."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from antiphon.compat.faster_whisper.results import TranscriptionOptions
from antiphon.compat.faster_whisper.vad import VadOptions, vad_options
from antiphon.config.errors import ConfigurationError
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.calls.fallback import TEMPERATURES
from antiphon.inputs.calls.transcription import NAMES

SAMPLING = [field.name for field in fields(SamplingParams)]
# Of `WhisperModel.transcribe`.
DEFAULTS: Mapping[str, Any] = {
    "log_progress": False,
    "beam_size": 5,
    "best_of": 5,
    "patience": 1,
    "length_penalty": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "temperature": list(TEMPERATURES),
    "compression_ratio_threshold": 2.4,
    "log_prob_threshold": -1.0,
    "no_speech_threshold": 0.6,
    "condition_on_previous_text": True,
    "prompt_reset_on_temperature": 0.5,
    "initial_prompt": None,
    "prefix": None,
    "suppress_blank": True,
    "suppress_tokens": [-1],
    "without_timestamps": False,
    "max_initial_timestamp": 1.0,
    "word_timestamps": False,
    "prepend_punctuations": "\"'“¿([{-",
    "append_punctuations": "\"'.。,，!！?？:：”)]}、",
    "multilingual": False,
    "vad_filter": False,
    "vad_parameters": None,
    "max_new_tokens": None,
    "chunk_length": None,
    "clip_timestamps": "0",
    "hallucination_silence_threshold": None,
    "hotwords": None,
    "language_detection_threshold": 0.5,
    "language_detection_segments": 1,
}
# Where `BatchedInferencePipeline.transcribe` differs.
BATCHED: Mapping[str, Any] = {
    **DEFAULTS,
    "without_timestamps": True,
    "vad_filter": True,
    "clip_timestamps": None,
    "batch_size": 8,
}
# Names that the engine has under another one.
OWN_NAMES = {"log_prob_threshold": "logprob_threshold", "chunk_length": "chunk_seconds"}
OF_SAMPLING = {
    **{
        name: name
        for name in (
            "beam_size", "patience", "length_penalty", "repetition_penalty", "no_repeat_ngram_size",
        )
    },
    "max_new_tokens": "max_tokens",
}  # fmt: skip
ELSEWHERE = {  # heeded by the caller of `engine_options`
    "log_progress", "without_timestamps", "batch_size", "language_detection_threshold",
    "language_detection_segments",
}  # fmt: skip
# In batches windows are independent of each other, in faster-whisper as here.
SEQUENTIAL_ONLY = {
    "condition_on_previous_text", "prompt_reset_on_temperature", "prefix",
    "hallucination_silence_threshold",
}  # fmt: skip


def settled(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with the defaults. Raises TypeError for an unknown name, as Python does."""
    for name in options:
        if name not in defaults:
            raise TypeError(f"transcribe() got an unexpected keyword argument '{name}'")
    return {**defaults, **options}


def engine_options(settings: Mapping[str, Any], *, batched: bool) -> dict[str, Any]:
    """Keywords of the engine's transcribe(), but for language and task.

    Raises ConfigurationError for what the engine does not do yet.
    """
    options: dict[str, Any] = {"timestamps": not settings["without_timestamps"]}
    sampling: dict[str, Any] = {}
    for name, value in settings.items():
        if name in ELSEWHERE or (batched and name in SEQUENTIAL_ONLY):
            continue
        own, known, target = OWN_NAMES.get(name, name), NAMES, options
        if name in OF_SAMPLING:
            own, known, target = OF_SAMPLING[name], SAMPLING, sampling
        if name == "length_penalty" and value == 1:
            continue  # the mean log-probability there, which None is here: 1 is Google's formula
        if own in known:
            target[own] = value
        elif value != DEFAULTS[name]:
            raise ConfigurationError(f"{name}={value!r}: the engine does not do this yet")
    options |= _in_its_form(settings, batched)
    return {**options, "params": SamplingParams(**sampling)}


def voice_options(settings: Mapping[str, Any], *, batched: bool) -> VadOptions | None:
    """Of a call that leaves out where nobody speaks; clips that are named are heard as they are.

    Raises TypeError for an unknown parameter.
    """
    if not settings["vad_filter"] or settings["clip_timestamps"] not in (None, "0"):
        return None
    return vad_options(settings["vad_parameters"], settings["chunk_length"], batched=batched)


def _in_its_form(settings: Mapping[str, Any], batched: bool) -> dict[str, Any]:
    """Values that the engine takes in another form."""
    voice, clips, suppressed = (
        voice_options(settings, batched=batched),
        settings["clip_timestamps"],
        settings["suppress_tokens"],
    )
    changed: dict[str, Any] = {
        "mode": "batched" if batched else "sequential",
        "keep_prefix": not batched,
        "clip_timestamps": None if clips == "0" else clips,
        "vad_filter": voice is not None,
        "vad_parameters": voice,
        "suppress_tokens": None if suppressed == [-1] else suppressed,
    }
    return {name: value for name, value in changed.items() if name in NAMES}


def transcription_options(settings: Mapping[str, Any], *, batched: bool) -> TranscriptionOptions:
    """What was settled on, as faster-whisper reports it."""
    temperature = settings["temperature"]
    several = isinstance(temperature, (list, tuple))
    values = {**settings, "temperatures": list(temperature) if several else [temperature]}
    if batched:
        values["condition_on_previous_text"] = False
    names = [field.name for field in fields(TranscriptionOptions)]
    return TranscriptionOptions(**{name: values[name] for name in names})
