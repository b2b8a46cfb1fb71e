"""Speech models that write text alone: no languages, tasks or timestamps (Moonshine)."""

import math
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import CheckpointError, PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.families.audio_config import AudioConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.prompt_ids import start_id
from antiphon.inputs.whisper.format import WhisperFormat


class PlainSpeechFormat(WhisperFormat):
    """A prompt is the start token; each window's text is one segment, and English."""

    prompt_is_free: ClassVar[bool] = False

    def __init__(self, model: ModelConfig, tokenizer: Any) -> None:
        """Raises CheckpointError for a checkpoint without its start or end token."""
        self._keep(model, tokenizer)
        self.start_id, end_id = start_id(model), model.token_id("eos_token_id")
        if end_id is None:
            raise CheckpointError(f"{model.path}: the generation config lacks eos_token_id")
        self.end_id, self.no_timestamps_id = end_id, -1
        self.times = range(0)
        self.first_timestamp_id = self.last_timestamp_id = -1
        self.languages, self.tasks = {}, {}
        self.multilingual = False
        self.default_language, self.default_task = None, "transcribe"
        self.max_initial = self.previous_id = self.no_speech_id = self._start_of_lm_id = None

    def check_times(self, in_turn: bool, words: object) -> None:
        for is_wanted, option in ((in_turn, "mode='sequential'"), (words, "word_timestamps=True")):
            if is_wanted:
                raise PromptError(f"{option}: this model tells no times: leave it out")

    def prompt(self, language: str | None, task: str, timestamps: bool) -> list[int]:
        return [self.start_id]

    def rules(self) -> TimestampRules | None:
        return None

    def is_text(self, token: int) -> bool:
        return token not in (self.start_id, self.end_id)


def speech_format(model: ModelConfig, audio: AudioConfig, tokenizer: Any) -> WhisperFormat:
    """Of a checkpoint that listens. Raises CheckpointError."""
    return (
        PlainSpeechFormat(model, tokenizer) if audio.any_length else WhisperFormat(model, tokenizer)
    )


def clip_tokens(samples: int, audio: AudioConfig, limit: int, is_short: bool) -> int:
    """Encoder tokens of a clip. `limit`: of a full window. `is_short`: windows are as long as their
    clip. Raises PromptError for a clip of any length that is over the limit."""
    if not (audio.any_length or is_short):
        return limit
    tokens = audio.tokens_of(samples)
    if audio.any_length and tokens > limit:
        raise PromptError(
            f"{samples / audio.sampling_rate:.1f} s of audio are {tokens} tokens, over "
            f"max_encoder_len={limit}"
        )
    return tokens


class Lengths(Protocol):
    """How long answers may be: an `InputProcessor`."""

    audio: AudioConfig | None

    def complete(self, params: SamplingParams) -> SamplingParams: ...

    def max_tokens(self, prompt_len: int, params: SamplingParams) -> int: ...


def within_speech(params: SamplingParams, clip: EncoderInput, inputs: Lengths) -> SamplingParams:
    """`params` with no more tokens than anyone says in `clip`, for models that may loop."""
    assert inputs.audio is not None
    if (most := inputs.audio.most_tokens_a_second) is None:
        return params
    seconds = max(1.0, len(clip.payload) / inputs.audio.sampling_rate)
    own = inputs.max_tokens(1, inputs.complete(params))
    return replace(params, max_tokens=max(params.min_tokens, min(own, math.ceil(most * seconds))))
