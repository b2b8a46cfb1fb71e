"""The flags of `antiphon transcribe` for speech: openai/whisper's names, and the engine's own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from antiphon.cli.arguments import Timeout
from antiphon.cli.flags import DataclassFlags, FlagGroup
from antiphon.config.errors import ConfigurationError

STEP = 0.2  # between temperatures, as in openai/whisper
HIGHEST = 1.0 + 1e-6  # temperature


@dataclass(frozen=True)
class SpeechFlags:
    """Options of transcribe() that a server has too."""

    language: Annotated[
        str | None, typer.Option(help="What is spoken; detected when left out.")
    ] = None
    task: Annotated[str, typer.Option(help="transcribe, or translate into English.")] = "transcribe"
    timestamps: Annotated[bool, typer.Option(help="Let the model mark its segments.")] = True
    chunk_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest piece between two cuts; the model's window when left out.",
        ),
    ] = None
    timeout: Timeout = None


@dataclass(frozen=True)
class WhisperFlags:
    """Flags of openai/whisper's command that are about other things than speech."""

    model_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where models are, and where they are fetched to."),
    ] = None
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="As -o num_threads.", hidden=True)
    ] = None
    fp16: Annotated[
        bool | None, typer.Option("--fp16/--no-fp16", help="No: --dtype float32.", hidden=True)
    ] = None
    verbose: Annotated[
        bool | None, typer.Option("--verbose/--no-verbose", help="Changes nothing.", hidden=True)
    ] = None

    def applied(
        self, model: str | None, engine: Mapping[str, Any]
    ) -> tuple[str | None, dict[str, Any]]:
        """The model and the engine's options with these. Raises ConfigurationError for what is
        said twice."""
        options = dict(engine)
        typed = {
            "num_threads": self.threads,
            "dtype": None if self.fp16 is not False else "float32",
        }
        for name, value in typed.items():
            if value is None:
                continue
            if name in options:
                raise ConfigurationError(f"{name} is given twice")
            options[name] = value
        if self.model_dir is None or model is None:
            return model, options
        if (self.model_dir / model).is_dir():
            return str(self.model_dir / model), options
        # Read when huggingface_hub is imported, which nothing has done yet; workers inherit it.
        os.environ["HF_HUB_CACHE"] = str(self.model_dir.expanduser().absolute())
        return model, options


SPEECH = DataclassFlags("speech", SpeechFlags)
WHISPER = DataclassFlags("whisper", WhisperFlags)
_NUMBER_OR_NONE = "None turns it off"
_TYPES: Mapping[str, Any] = {
    "mode": Literal["batched", "sequential"],
    "initial_prompt": str,
    "carry_initial_prompt": bool,
    "condition_on_previous_text": bool,
    "prompt_reset_on_temperature": float,
    "hotwords": str,
    "prefix": str,
    "keep_prefix": bool,
    "word_timestamps": bool,
    "prepend_punctuations": str,
    "append_punctuations": str,
    "vad_filter": bool,
    "vad_parameters": dict[str, float],
    "clip_timestamps": str,
    "hallucination_silence_threshold": float,
    "temperature": float,
    "temperature_increment_on_fallback": str,
    "best_of": int,
    "compression_ratio_threshold": str,
    "logprob_threshold": str,
    "no_speech_threshold": str,
    "suppress_tokens": str,
    "suppress_blank": bool,
    "max_initial_timestamp": float,
    "multilingual": bool,
    "language_detection_threshold": float,
    "language_detection_segments": int,
}
TRANSCRIPTION = FlagGroup(
    parameter="transcription",
    panel="Transcription",
    pairs=("--transcription", "-t"),
    types=_TYPES,
    defaults=dict.fromkeys(_TYPES),
    meanings={
        "mode": "windows at once, or one after another as in openai/whisper",
        "initial_prompt": "text that comes before: names, spelling, style",
        "carry_initial_prompt": "give it to every window",
        "condition_on_previous_text": "give each window the text before it; in sequential mode",
        "prompt_reset_on_temperature": "above it the text before is forgotten",
        "hotwords": "words to expect in every window",
        "prefix": "what the text begins with",
        "keep_prefix": "the prefix is part of the text",
        "word_timestamps": "times of single words",
        "prepend_punctuations": "marks that belong to the word behind them",
        "append_punctuations": "marks that belong to the word before them",
        "vad_filter": "leave out where nobody speaks",
        "vad_parameters": "of silero-vad, as JSON: -t 'vad_parameters={\"threshold\": 0.6}'",
        "clip_timestamps": "start,end,start,end,... in seconds: hear these parts alone",
        "hallucination_silence_threshold": "skip silence longer than this where text is made up",
        "temperature": "the first that is tried; 0 is greedy",
        "temperature_increment_on_fallback": "what is added where a text is bad, up to 1; "
        f"{_NUMBER_OR_NONE}",
        "best_of": "samples at temperatures above 0, of which the likeliest counts",
        "compression_ratio_threshold": f"a text that compresses better is bad; {_NUMBER_OR_NONE}",
        "logprob_threshold": f"a text less likely than this is bad; {_NUMBER_OR_NONE}",
        "no_speech_threshold": "such a text is none where silence is likelier than this; "
        f"{_NUMBER_OR_NONE}",
        "suppress_tokens": "ids that are never said, with commas; -1 stands for the model's own",
        "suppress_blank": "a text doesn't begin with a blank or its end",
        "max_initial_timestamp": "seconds within which the first segment begins",
        "multilingual": "detect the language of every window",
        "language_detection_threshold": "a language likelier than this is taken",
        "language_detection_segments": "windows that are asked for it",
    },
    listed=(
        "mode",
        "initial_prompt",
        "condition_on_previous_text",
        "hotwords",
        "word_timestamps",
        "vad_filter",
        "clip_timestamps",
        "temperature",
        "temperature_increment_on_fallback",
        "compression_ratio_threshold",
        "logprob_threshold",
        "no_speech_threshold",
    ),
    aliases={
        "logprob_threshold": ("--log-prob-threshold",),
        "initial_prompt": ("--prompt",),
    },
)
_OPTIONAL = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
# These need windows that come one after another.
_IN_TURN = ("condition_on_previous_text", "hallucination_silence_threshold")


def transcription_options(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of transcribe() for the flags that were typed. Raises ConfigurationError."""
    options = dict(typed)
    for name in _OPTIONAL:
        if name in options:
            options[name] = _number_or_none(name, options[name])
    step_name = "temperature_increment_on_fallback"
    if "temperature" in options or step_name in options:
        step = _number_or_none(step_name, options.pop(step_name, STEP))
        options["temperature"] = _temperatures(options.get("temperature", 0.0), step)
    if "mode" not in options and any(options.get(name) for name in _IN_TURN):
        options["mode"] = "sequential"
    return options


def _temperatures(first: float, step: float | None) -> list[float]:
    """From the first one to 1, as openai/whisper's command has them."""
    if step is None or step <= 0:
        return [first]
    count = max(0, int((HIGHEST - first) / step))
    return [round(first + number * step, 6) for number in range(count + 1)]


def _number_or_none(name: str, value: Any) -> float | None:
    if value is None or str(value).strip().lower() == "none":
        return None
    try:
        return float(value)
    except ValueError:
        raise ConfigurationError(f"{name} must be a number or None, not {value!r}") from None
