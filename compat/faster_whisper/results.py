"""What a transcription gives, with faster-whisper's names."""

from collections.abc import Iterable
from dataclasses import dataclass

from antiphon.compat.faster_whisper.vad import VadOptions


@dataclass
class Word:
    start: float  # seconds from the recording's start
    end: float
    word: str  # with the blank before it
    probability: float


@dataclass
class Segment:
    """`seek`: where its window begins, in hundredths of a second. `text` has the blank that its
    first word has in the language. `tokens`: those of the text."""

    id: int  # from 1
    seek: int
    start: float  # seconds from the recording's start
    end: float
    text: str
    tokens: list[int]
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: list[Word] | None
    temperature: float | None


@dataclass
class TranscriptionOptions:
    """The options of one call, settled."""

    beam_size: int
    best_of: int
    patience: float
    length_penalty: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    log_prob_threshold: float | None
    no_speech_threshold: float | None
    compression_ratio_threshold: float | None
    condition_on_previous_text: bool
    prompt_reset_on_temperature: float
    temperatures: list[float]
    initial_prompt: str | Iterable[int] | None
    prefix: str | None
    suppress_blank: bool
    suppress_tokens: list[int] | None
    without_timestamps: bool
    max_initial_timestamp: float
    word_timestamps: bool
    prepend_punctuations: str
    append_punctuations: str
    multilingual: bool
    max_new_tokens: int | None
    clip_timestamps: str | list[float] | list[dict[str, float]] | None
    hallucination_silence_threshold: float | None
    hotwords: str | None


@dataclass
class TranscriptionInfo:
    """Known before the first segment. Durations in seconds."""

    language: str
    language_probability: float
    duration: float
    duration_after_vad: float
    all_language_probs: list[tuple[str, float]] | None
    transcription_options: TranscriptionOptions
    vad_options: VadOptions | None
