"""Whisper's prompts and timestamps (Radford et al. 2022, section 2.3)."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar, Literal

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import CheckpointError, PromptError, about, nearest
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.languages.lookup import language_code
from antiphon.inputs.prompts import unicode_text
from antiphon.inputs.whisper.tokens import (
    SECONDS_PER_TICK,
    forced_ids,
    is_multilingual,
    language_ids,
    no_speech_id,
    non_speech_ids,
    special_id,
    task_ids,
    timestamp_ids,
)

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True)
class TimedTokens:
    """The text tokens between two timestamps.

    `start`, `end`: seconds from the window's start; `end` is None for text that was cut off.
    `positions`: indices of these tokens among the window's.
    """

    start: float
    end: float | None
    token_ids: list[int]
    positions: list[int]


class WhisperFormat:
    """The special tokens of one Whisper checkpoint, from its generation config and tokenizer.

    `languages`, `tasks`: token ids by language code and by name; empty where there are none.
    `times`: the ids of timestamps. `multilingual`: whether prompts name language and task.
    `previous_id`: the token before earlier text, which comes before the start token.
    `no_speech_id`: the token whose probability behind the start token says that there is no speech.
    `suppressed`: what the checkpoint never generates. `positions`: of its decoder.

    Raises CheckpointError for a checkpoint without the tokens that every Whisper has, and for
    settings that its tokenizer contradicts.
    """

    prompt_is_free: ClassVar[bool] = True  # max_length does not count it

    def __init__(self, model: ModelConfig, tokenizer: Any) -> None:
        settings, vocabulary = model.generation, tokenizer.get_vocab()
        self._keep(model, tokenizer)
        size = self.vocab_size
        self.start_id = _required(
            model.token_id("decoder_start_token_id"), "decoder_start_token_id"
        )
        self.end_id = _required(model.token_id("eos_token_id"), "eos_token_id")
        name = "no_timestamps_token_id"
        stated = special_id(settings, name, "<|notimestamps|>", vocabulary)
        self.no_timestamps_id = _required(stated, name)
        assert model.encoder is not None
        last_tick = model.encoder.max_positions
        assert last_tick is not None, "Whisper's encoder has a window"
        self.times = timestamp_ids(vocabulary, self.no_timestamps_id, last_tick, size)
        self.first_timestamp_id, self.last_timestamp_id = self.times.start, self.times.stop - 1
        self.languages = _within(language_ids(settings, vocabulary), size)
        self.tasks = _within(task_ids(settings, vocabulary), size)
        forced = forced_ids(settings, model.raw)
        self.multilingual = bool(self.languages and self.tasks) and is_multilingual(
            settings, forced, self.no_timestamps_id, self.end_id
        )
        self.default_language, self.default_task = self._defaults(settings, forced)
        self.max_initial: int | None = settings.get("max_initial_timestamp_index")
        name = "prev_sot_token_id"
        self.previous_id = special_id(settings, name, "<|startofprev|>", vocabulary)
        self.no_speech_id: int | None = no_speech_id(vocabulary, self.no_timestamps_id)
        self._start_of_lm_id: int | None = vocabulary.get("<|startoflm|>")

    def _keep(self, model: ModelConfig, tokenizer: Any) -> None:
        """What every speech model has."""
        self.vocab_size, self.positions = model.decoder.vocab_size, model.max_decoder_len
        self.suppressed, self.temperature = model.defaults.suppress, model.defaults.temperature
        self._tokenizer = tokenizer

    def _defaults(
        self, settings: Mapping[str, Any], forced: Mapping[int, int | None]
    ) -> tuple[str | None, str]:
        """Language and task where the caller names none, as in transformers: the generation
        config's `language` and `task`, else those of its old forced_decoder_ids. Language None: the
        model detects it."""
        if not self.multilingual:
            return None, "transcribe"
        language, task = settings.get("language"), settings.get("task")
        if language is None and task is None:
            codes = {id_: code for code, id_ in self.languages.items()}
            names = {id_: name for name, id_ in self.tasks.items()}
            language, task = codes.get(forced.get(1) or -1), names.get(forced.get(2) or -1)
        code = None
        with contextlib.suppress(PromptError):  # a language that the vocabulary lacks
            code = language_code(language, self.languages)
        return code, task if task in self.tasks else "transcribe"

    # ------------------------------------------------------------------ prompts

    def check(self, language: object, task: object) -> tuple[str | None, str]:
        """The checkpoint's language code and task for those of a caller, in any spelling.

        None stands for what the generation config says; the language 'auto' is always detected. The
        code is None for a language to be detected. Raises PromptError for an unknown one.
        """
        task = self.default_task if task is None else task
        language = self.default_language if language is None else language
        name = task.strip().lower() if isinstance(task, str) else None
        if not self.multilingual:
            return check_english_only(language, name)
        if name is None or name not in self.tasks:
            suggestion = nearest(str(task), list(self.tasks))
            raise PromptError(f"unknown task {str(task)[:40]!r}.{suggestion}", parameter="task")
        with about("language"):
            return language_code(language, self.languages), name

    def check_times(self, in_turn: bool, words: object) -> None:
        """Raises PromptError for windows `in_turn` or times of `words`, where the model tells no
        times."""

    def prompt(self, language: str | None, task: str, timestamps: bool) -> list[int]:
        """The decoder prompt; a multilingual checkpoint needs `language`."""
        ids = [self.start_id]
        if self.multilingual:
            assert language is not None
            ids += [self.languages[language], self.tasks[task]]
        return ids if timestamps and self.times else [*ids, self.no_timestamps_id]

    def wants_timestamps(self, prompt: list[int]) -> bool:
        """Whether text behind this decoder prompt has timestamps: unless it says
        <|notimestamps|>, or is the bare start token of a multilingual checkpoint, which asks for
        the language."""
        if not self.times or (self.multilingual and len(prompt) == 1):
            return False
        return self.no_timestamps_id not in prompt

    def rules(self) -> TimestampRules | None:
        """The rules for timestamps; None for a checkpoint without any."""
        if not self.times:
            return None
        return TimestampRules(
            self.first_timestamp_id,
            self.no_timestamps_id,
            self.end_id,
            self.max_initial,
            self.last_timestamp_id,
        )

    # ------------------------------------------------------------------ generated tokens

    def seconds_of(self, token: int) -> float | None:
        """The time of a timestamp from the window's start; None for any other token."""
        return (token - self.first_timestamp_id) * SECONDS_PER_TICK if token in self.times else None

    def is_text(self, token: int) -> bool:
        """Whether a token is text: an ordinary one, or one that was added above the timestamps."""
        return token < self.end_id or token > self.last_timestamp_id

    def fixed_temperature(self, params: SamplingParams) -> float | None:
        """The temperature that `params` or the checkpoint sets; None where both leave it open."""
        return params.temperature if not params.leaves_open("temperature") else self.temperature

    @property
    def never_text(self) -> set[int]:
        """The special tokens that openai/whisper bars whatever else is barred."""
        optional = {self.previous_id, self._start_of_lm_id, self.no_speech_id}
        ids = {*self.tasks.values(), self.start_id}
        return ids | {id_ for id_ in optional if id_ is not None}

    @cached_property
    def non_speech_ids(self) -> tuple[int, ...]:
        """Tokens of annotations and speakers' names, for a checkpoint that lists none."""
        return non_speech_ids(
            lambda text: self._tokenizer(text, add_special_tokens=False).input_ids
        )

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a text as it stands behind a blank. Raises PromptError for what is no
        text to tokenizers."""
        text = unicode_text(text.strip())
        if not text:
            return []
        ids: list[int] = self._tokenizer(f" {text}", add_special_tokens=False).input_ids
        return ids

    def checked_ids(self, name: str, ids: Iterable[Any]) -> list[int]:
        """Raises PromptError for what is no id of the decoder's vocabulary."""
        listed = list(ids)
        for id_ in listed:
            if isinstance(id_, bool) or not isinstance(id_, Integral):
                raise PromptError(f"{name} must hold token ids, not {id_!r:.60}")
            if not 0 <= int(id_) < self.vocab_size:
                raise PromptError(
                    f"{name} has token id {id_}; the vocabulary has 0 to {self.vocab_size - 1}"
                )
        return [int(id_) for id_ in listed]

    def segments(self, token_ids: list[int]) -> list[TimedTokens]:
        """The text of a window, split at its timestamps."""
        segments: list[TimedTokens] = []
        start = 0.0
        positions: list[int] = []
        for position, token in enumerate(token_ids):
            seconds = self.seconds_of(token)
            if seconds is None:
                if self.is_text(token):
                    positions.append(position)
                continue
            if positions:
                segments.append(_timed(start, seconds, positions, token_ids))
                positions = []
            start = seconds
        return [*segments, _timed(start, None, positions, token_ids)] if positions else segments

    def text_positions(self, token_ids: list[int]) -> list[int]:
        """The indices of `token_ids` that hold text."""
        return [position for position, token in enumerate(token_ids) if self.is_text(token)]


def check_english_only(language: object, task: str | None) -> tuple[str, str]:
    """As `WhisperFormat.check`, for a checkpoint of English alone. Raises PromptError."""
    if task != "transcribe" or not _is_english(language):
        raise PromptError(
            "this checkpoint transcribes English only: leave out language and task",
            parameter="task" if task != "transcribe" else "language",
        )
    return "en", task


def _is_english(language: object) -> bool:
    try:
        return language_code(language, {"en"}) in (None, "en")
    except PromptError:
        return False


def _timed(start: float, end: float | None, positions: list[int], ids: list[int]) -> TimedTokens:
    return TimedTokens(start, end, [ids[position] for position in positions], positions)


def _within(ids: Mapping[str, int], vocab_size: int) -> dict[str, int]:
    """Without the tokens that a checkpoint names but whose ids its decoder can't embed."""
    return {name: id_ for name, id_ in ids.items() if 0 <= id_ < vocab_size}


def _required(value: Any, name: str) -> int:
    if value is None:
        raise CheckpointError(f"this Whisper checkpoint's generation config lacks {name}")
    return int(value)
