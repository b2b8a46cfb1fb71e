"""The keywords of transcribe(), checked before any audio is read or any engine runs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from antiphon.config.decoding_rules import RuleChanges
from antiphon.config.errors import ConfigurationError, PromptError, SamplingError, nearest
from antiphon.config.foreign import shown
from antiphon.config.sampling import SamplingParams
from antiphon.families.audio_config import AudioConfig
from antiphon.inputs.audio.voice_activity import VoiceOptions
from antiphon.inputs.calls.earlier_text import EarlierText, checked_earlier_text
from antiphon.inputs.calls.fallback import Fallback, checked_fallback
from antiphon.inputs.calls.foreign_names import FOREIGN_NAMES
from antiphon.inputs.calls.heard import Clip, checked_clips, checked_voice
from antiphon.inputs.calls.numbers import (
    checked_count,
    checked_flag,
    checked_number,
    checked_optional,
    is_real,
)
from antiphon.inputs.calls.options import checked_priority
from antiphon.inputs.calls.token_rules import checked_rules
from antiphon.inputs.calls.words import checked_words
from antiphon.inputs.whisper.format import WhisperFormat
from antiphon.inputs.whisper.words import WordRules

Progress = Callable[[float, float], object]  # takes the seconds of audio done, and those in all

# Other names of the same keywords: openai-whisper's, faster-whisper's, vLLM's.
ALIASES = {"sampling_params": "params", "log_prob_threshold": "logprob_threshold"}
MODES = ("batched", "sequential")
# Of these, None means "off"; of all others, that nothing was said.
OFF_BY_NONE = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """What a caller may give, as it was given. docs/transcription.md says what each one means."""

    language: Any = None
    multilingual: Any = False
    language_detection_threshold: Any = 0.5
    language_detection_segments: Any = 1
    task: Any = None
    timestamps: Any = True
    without_timestamps: Any = False
    mode: Any = "batched"
    chunk_seconds: Any = None
    word_timestamps: Any = False
    prepend_punctuations: Any = None
    append_punctuations: Any = None
    clip_timestamps: Any = None
    vad_filter: Any = False
    vad_parameters: Any = None
    initial_prompt: Any = None
    carry_initial_prompt: Any = False
    hotwords: Any = None
    prefix: Any = None
    keep_prefix: Any = False
    condition_on_previous_text: Any = None
    prompt_reset_on_temperature: Any = 0.5
    temperature: Any = None
    best_of: Any = 1
    beam_size: Any = None
    patience: Any = None
    length_penalty: Any = None
    no_repeat_ngram_size: Any = None
    max_tokens: Any = None
    compression_ratio_threshold: Any = 2.4
    logprob_threshold: Any = -1.0
    no_speech_threshold: Any = 0.6
    hallucination_silence_threshold: Any = None
    suppress_tokens: Any = None
    suppress_blank: Any = True
    max_initial_timestamp: Any = None
    params: Any = None
    priority: Any = 0
    timeout: Any = None
    progress: Any = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Keywords":
        """Raises ConfigurationError for an unknown name, and for one that is given twice
        (SamplingError for params)."""
        values: dict[str, Any] = {}
        for name, value in options.items():
            own = ALIASES.get(name, name)
            if own not in NAMES:
                refuse_name(name)
            if values.get(own) is not None and value is not None:
                error = SamplingError if own == "params" else ConfigurationError
                raise error(f"{name} and {own} are the same: give one of them")
            if own not in values or value is not None:
                values[own] = value
        said = {
            name: value
            for name, value in values.items()
            if value is not None or name in OFF_BY_NONE
        }
        return cls(**said)


NAMES = [field.name for field in fields(Keywords)]
# Fields of `SamplingParams` that transcribe() takes itself, as other tools' does.
OF_SAMPLING = ("beam_size", "patience", "length_penalty", "no_repeat_ngram_size", "max_tokens")


@dataclass(frozen=True)
class TranscriptionOptions:
    """Checked keywords of one call.

    `language`: a code of the checkpoint, or None to detect it. `in_turn`: windows are decoded one
    after another, each from where the text of the one before ended; else all at once. `longest`:
    samples of the longest window. `timeout`: seconds for the whole recording.
    """

    language: str | None
    detection: "Detection"
    task: str
    timestamps: bool
    in_turn: bool
    longest: int
    clips: tuple[Clip, ...]
    voice: VoiceOptions | None
    earlier: EarlierText
    fallback: Fallback
    rules: RuleChanges
    params: SamplingParams
    priority: int
    timeout: float | None
    progress: Progress | None = None
    words: WordRules | None = None
    silence_threshold: float | None = None  # seconds, beside what may be made up

    @property
    def may_stream(self) -> bool:
        """Whether the text may be shown as it comes: nothing takes it back."""
        one_attempt = len(self.fallback.temperatures) == 1 and self.fallback.best_of == 1
        keeps_prefix = self.earlier.keeps_prefix and bool(self.earlier.prefix)
        waits = self.in_turn or self.detection.each_window or keeps_prefix
        return one_attempt and not waits


@dataclass(frozen=True)
class Detection:
    """How a language is detected: the first of `windows` windows where one is likelier than
    `threshold` decides; without such, most of them. `each_window`: each has a language of its own.
    """

    each_window: bool = False
    threshold: float = 0.5
    windows: int = 1


def check_options(
    whisper: WhisperFormat, audio: AudioConfig, options: Mapping[str, Any], has_words: bool = True
) -> TranscriptionOptions:
    """`has_words`: the engine keeps what word times are made of.

    Raises ConfigurationError for an unknown name, PromptError or SamplingError for a value.
    """
    keywords = Keywords.of(options)
    in_turn = _in_turn(keywords.mode)
    whisper.check_times(in_turn, keywords.word_timestamps)
    params = with_keywords(one_sample(keywords.params), keywords)
    code, task = whisper.check(keywords.language, keywords.task)
    if keywords.progress is not None and not callable(keywords.progress):
        raise PromptError(
            "progress must be a function of two numbers, seconds done and in all, "
            f"not {shown(keywords.progress)}"
        )
    return TranscriptionOptions(
        language=code,
        detection=_detection(keywords, whisper),
        task=task,
        timestamps=checked_flag("timestamps", keywords.timestamps)
        and not checked_flag("without_timestamps", keywords.without_timestamps),
        in_turn=in_turn,
        longest=checked_window(keywords.chunk_seconds, audio),
        clips=checked_clips(keywords.clip_timestamps),
        voice=checked_voice(keywords, in_turn),
        earlier=checked_earlier_text(keywords, whisper, in_turn),
        fallback=checked_fallback(keywords, whisper.fixed_temperature(params)),
        rules=checked_rules(keywords, whisper),
        params=params,
        priority=checked_priority(keywords.priority),
        timeout=checked_timeout(keywords.timeout),
        progress=keywords.progress,
        words=checked_words(keywords, has_words),
        silence_threshold=_silence_threshold(keywords, in_turn),
    )


def refuse_name(name: str) -> None:
    """Raises ConfigurationError for a keyword that transcribe() does not have."""
    if name in FOREIGN_NAMES:
        raise ConfigurationError(f"transcribe() has no option '{name}': {FOREIGN_NAMES[name]}")
    raise ConfigurationError(f"transcribe() has no option '{name}'.{nearest(name, NAMES)}")


def _silence_threshold(keywords: Keywords, in_turn: bool) -> float | None:
    name = "hallucination_silence_threshold"
    threshold = checked_optional(name, keywords.hallucination_silence_threshold, 0.0)
    if threshold is not None and not (in_turn and keywords.word_timestamps):
        raise PromptError(f"{name} needs word_timestamps=True and mode='sequential'")
    return threshold


def _in_turn(mode: Any) -> bool:
    if mode not in MODES:
        raise PromptError(f"mode must be 'batched' or 'sequential', not {shown(mode)}")
    return bool(mode == "sequential")


def _detection(keywords: Keywords, whisper: WhisperFormat) -> Detection:
    each_window = checked_flag("multilingual", keywords.multilingual)
    if each_window and not whisper.multilingual:
        raise PromptError("multilingual=True: this checkpoint transcribes English only")
    name = "language_detection_threshold"
    return Detection(
        each_window,
        checked_number(name, keywords.language_detection_threshold),
        checked_count("language_detection_segments", keywords.language_detection_segments),
    )


def checked_timeout(timeout: Any) -> float | None:
    """A timeout in seconds, None for no limit. Raises PromptError."""
    if timeout is None:
        return None
    try:
        seconds = float(timeout) if is_real(timeout) else math.nan
    except OverflowError:  # a whole number beyond all floats
        seconds = math.inf if timeout > 0 else -math.inf
    if math.isnan(seconds) or seconds < 0:
        raise PromptError(f"timeout must be seconds, or None for no limit, not {shown(timeout)}")
    return seconds


def checked_window(chunk_seconds: Any, audio: AudioConfig) -> int:
    """Samples of the longest window; None is the model's. Raises PromptError."""
    if chunk_seconds is None:
        return audio.window
    if not is_real(chunk_seconds) or not 1.0 <= chunk_seconds <= audio.window_seconds:
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


def with_keywords(params: SamplingParams, keywords: Keywords) -> SamplingParams:
    """`params` with what the call itself says of beams and tokens. Raises SamplingError."""
    named = {name: getattr(keywords, name) for name in OF_SAMPLING}
    changes = {name: value for name, value in named.items() if value is not None}
    return replace(params, **changes) if changes else params
