"""Whisper's prompt format and its timestamps (Radford et al. 2022, section 2.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from antiphon.config.errors import CheckpointError, PromptError, nearest
from antiphon.config.model import ModelConfig
from antiphon.config.sampling import TimestampRules
from antiphon.inputs.whisper_tokens import (
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
    """Text tokens between two timestamps, in seconds from the window's start; `end` is None when it was cut off."""

    start: float
    end: float | None
    token_ids: list[int]


class WhisperFormat:
    """The special tokens of one Whisper checkpoint, from its generation config and tokenizer."""

    def __init__(self, model: ModelConfig, tokenizer: Any) -> None:
        self.start_id = _required(model.token_id("decoder_start_token_id"), "decoder_start_token_id")
        self.end_id = _required(model.token_id("eos_token_id"), "eos_token_id")
        settings, vocabulary = model.generation, tokenizer.get_vocab()
        stated = settings.get("no_timestamps_token_id")
        self.no_timestamps_id: int = _required(
            vocabulary.get("<|notimestamps|>") if stated is None else stated, "no_timestamps_token_id"
        )
        assert model.encoder.max_positions is not None, "Whisper's encoder has a window"
        self.times = timestamp_ids(vocabulary, self.no_timestamps_id, model.encoder.max_positions, model.decoder.vocab_size)
        self.first_timestamp_id, self.last_timestamp_id = self.times.start, self.times.stop - 1
        self.languages, self.tasks = language_ids(settings, vocabulary), task_ids(settings, vocabulary)
        forced = forced_ids(settings, model.raw)
        self.multilingual = bool(self.languages and self.tasks) and is_multilingual(
            settings, forced, self.no_timestamps_id, self.end_id
        )
        self.default_language, self.default_task = self._defaults(settings, forced)
        self.max_initial: int | None = settings.get("max_initial_timestamp_index")
        # Earlier text comes before the start token, behind this one.
        self.previous_id: int | None = settings.get("prev_sot_token_id") or vocabulary.get("<|startofprev|>")

    def _defaults(self, settings: Mapping[str, Any], forced: Mapping[int, int | None]) -> tuple[str | None, str]:
        """Language (None: to be heard) and task where the caller names none, as in transformers: of the generation
        config's `language` and `task`, else of its old forced_decoder_ids."""
        if not self.multilingual:
            return None, "transcribe"
        language, task = settings.get("language"), settings.get("task")
        if language is None and task is None:
            codes = {id_: code for code, id_ in self.languages.items()}
            names = {id_: name for name, id_ in self.tasks.items()}
            language, task = codes.get(forced.get(1) or -1), names.get(forced.get(2) or -1)
        code = self._code(language) if language is not None else None
        return code, task if task in self.tasks else "transcribe"

    def _code(self, language: Any) -> str | None:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        name = str(language).strip().lower().strip("<|>")
        code = TO_LANGUAGE_CODE.get(name, name)
        return code if code in self.languages else None

    def check(self, language: str | None, task: str) -> None:
        """Raises PromptError for a language or task that this checkpoint does not know."""
        if not self.multilingual:
            if language not in (None, "en") or task != "transcribe":
                raise PromptError("this checkpoint transcribes English only: leave out language and task")
            return
        if language is not None and language not in self.languages:
            raise PromptError(f"unknown language '{language}'.{nearest(language, list(self.languages))}")
        if task not in self.tasks:
            raise PromptError(f"unknown task '{task}'.{nearest(task, list(self.tasks))}")

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
        return TimestampRules(self.first_timestamp_id, self.no_timestamps_id, self.end_id, self.max_initial, self.last_timestamp_id)

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
        found: list[TimedTokens] = []
        start, text = 0.0, list[int]()
        for token in token_ids:
            at = self.seconds_of(token)
            if at is None:
                if self.is_text(token):
                    text.append(token)
                continue
            if text:
                found.append(TimedTokens(start, at, text))
                text = []
            start = at
        return [*found, TimedTokens(start, None, text)] if text else found


def _required(value: Any, name: str) -> int:
    if value is None:
        raise CheckpointError(f"this Whisper checkpoint's generation config lacks {name}")
    return int(value)
