"""Whisper's prompt format and its timestamps (Radford et al. 2022, section 2.3)."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import CheckpointError, PromptError, nearest
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.languages.lookup import language_code
from antiphon.inputs.whisper.tokens import (
    SECONDS_PER_TICK,
    forced_ids,
    is_multilingual,
    language_ids,
    task_ids,
    timestamp_ids,
)

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True)
class TimedTokens:
    """Text tokens between two timestamps, in seconds from the window's start; `end` is None when
    it was cut off. `positions`: where these tokens stand among the window's."""

    start: float
    end: float | None
    token_ids: list[int]
    positions: list[int]


class WhisperFormat:
    """The special tokens of one Whisper checkpoint, from its generation config and tokenizer."""

    def __init__(self, model: ModelConfig, tokenizer: Any) -> None:
        self.start_id = _required(
            model.token_id("decoder_start_token_id"), "decoder_start_token_id"
        )
        self.end_id = _required(model.token_id("eos_token_id"), "eos_token_id")
        settings, vocabulary = model.generation, tokenizer.get_vocab()
        stated = settings.get("no_timestamps_token_id")
        self.no_timestamps_id: int = _required(
            vocabulary.get("<|notimestamps|>") if stated is None else stated,
            "no_timestamps_token_id",
        )
        assert model.encoder.max_positions is not None, "Whisper's encoder has a window"
        self.times = timestamp_ids(
            vocabulary, self.no_timestamps_id, model.encoder.max_positions, model.decoder.vocab_size
        )
        self.first_timestamp_id, self.last_timestamp_id = self.times.start, self.times.stop - 1
        size = model.decoder.vocab_size  # what is stated beyond it can't be used
        self.languages = {
            code: id_ for code, id_ in language_ids(settings, vocabulary).items() if 0 <= id_ < size
        }
        self.tasks = {
            name: id_ for name, id_ in task_ids(settings, vocabulary).items() if 0 <= id_ < size
        }
        forced = forced_ids(settings, model.raw)
        self.multilingual = bool(self.languages and self.tasks) and is_multilingual(
            settings, forced, self.no_timestamps_id, self.end_id
        )
        self.default_language, self.default_task = self._defaults(settings, forced)
        self.max_initial: int | None = settings.get("max_initial_timestamp_index")
        # Earlier text comes before the start token, behind this one.
        self.previous_id: int | None = settings.get("prev_sot_token_id") or vocabulary.get(
            "<|startofprev|>"
        )

    def _defaults(
        self, settings: Mapping[str, Any], forced: Mapping[int, int | None]
    ) -> tuple[str | None, str]:
        """Language (None: to be heard) and task where the caller names none, as in transformers: of the generation
        config's `language` and `task`, else of its old forced_decoder_ids."""
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

    def check(self, language: object, task: object) -> tuple[str | None, str]:
        """Language code (None: to be found) and task, in any spelling, as this checkpoint has them. None is
        what its generation config says; 'auto' finds the language whatever that says.

        Raises PromptError for what it does not know.
        """
        task = self.default_task if task is None else task
        language = self.default_language if language is None else language
        name = task.strip().lower() if isinstance(task, str) else None
        if not self.multilingual:
            return check_english_only(language, name)
        if name is None or name not in self.tasks:
            raise PromptError(
                f"unknown task {str(task)[:40]!r}.{nearest(str(task), list(self.tasks))}"
            )
        return language_code(language, self.languages), name

    def prompt(self, language: str | None, task: str, timestamps: bool) -> list[int]:
        """The decoder prompt; `language` must be given for a multilingual checkpoint."""
        ids = [self.start_id]
        if self.multilingual:
            assert language is not None
            ids += [self.languages[language], self.tasks[task]]
        return ids if timestamps and self.times else [*ids, self.no_timestamps_id]

    def rules(self) -> TimestampRules | None:
        """None for a checkpoint without timestamps."""
        if not self.times:
            return None
        return TimestampRules(
            self.first_timestamp_id,
            self.no_timestamps_id,
            self.end_id,
            self.max_initial,
            self.last_timestamp_id,
        )

    def seconds_of(self, token: int) -> float | None:
        """What a timestamp says, from the window's start; None for any other token."""
        return (token - self.first_timestamp_id) * SECONDS_PER_TICK if token in self.times else None

    def is_text(self, token: int) -> bool:
        """Ordinary tokens, and those that were added behind the timestamps."""
        return token < self.end_id or token > self.last_timestamp_id

    def language_of(self, token_id: int) -> str:
        return next(code for code, id_ in self.languages.items() if id_ == token_id)

    def segments(self, token_ids: list[int]) -> list[TimedTokens]:
        """Splits generated tokens at their timestamp pairs."""
        pieces: list[TimedTokens] = []
        start, positions = 0.0, list[int]()
        for position, token in enumerate(token_ids):
            seconds = self.seconds_of(token)
            if seconds is None:
                if self.is_text(token):
                    positions.append(position)
                continue
            if positions:
                pieces.append(_timed(start, seconds, positions, token_ids))
                positions = []
            start = seconds
        return [*pieces, _timed(start, None, positions, token_ids)] if positions else pieces

    def text_positions(self, token_ids: list[int]) -> list[int]:
        """Where `token_ids` holds text."""
        return [position for position, token in enumerate(token_ids) if self.is_text(token)]


def check_english_only(language: object, task: str | None) -> tuple[str, str]:
    """For a checkpoint of one language. Raises PromptError for what would need another."""
    if task != "transcribe" or not _is_english(language):
        raise PromptError("this checkpoint transcribes English only: leave out language and task")
    return "en", task


def _timed(start: float, end: float | None, positions: list[int], ids: list[int]) -> TimedTokens:
    return TimedTokens(start, end, [ids[position] for position in positions], positions)


def _is_english(language: object) -> bool:
    try:
        return language_code(language, {"en"}) in (None, "en")
    except PromptError:
        return False


def _required(value: Any, name: str) -> int:
    if value is None:
        raise CheckpointError(f"this Whisper checkpoint's generation config lacks {name}")
    return int(value)
