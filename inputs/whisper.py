"""Whisper's prompt format and its timestamps (Radford et al. 2022, section 2.3)."""

from dataclasses import dataclass
from typing import Any, Literal

from antiphon.config.errors import CheckpointError, PromptError, nearest
from antiphon.config.model import ModelConfig
from antiphon.config.sampling import TimestampRules

Task = Literal["transcribe", "translate"]
SECONDS_PER_TICK = 0.02


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
        known = tokenizer.get_vocab()
        self.no_timestamps_id: int = _required(
            model.generation.get("no_timestamps_token_id", known.get("<|notimestamps|>")), "no_timestamps_token_id"
        )
        self.first_timestamp_id = self.no_timestamps_id + 1
        languages: dict[str, int] = model.generation.get("lang_to_id") or {}
        self.languages = {token.strip("<|>"): id_ for token, id_ in languages.items()}
        self.tasks: dict[str, int] = model.generation.get("task_to_id") or {}
        self.multilingual = bool(self.languages and self.tasks) and model.generation.get("is_multilingual", True)
        self.max_initial = model.generation.get("max_initial_timestamp_index")

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
        return ids if timestamps else [*ids, self.no_timestamps_id]

    def rules(self) -> TimestampRules:
        return TimestampRules(self.first_timestamp_id, self.no_timestamps_id, self.end_id, self.max_initial)

    def language_of(self, token_id: int) -> str:
        return next(code for code, id_ in self.languages.items() if id_ == token_id)

    def segments(self, token_ids: list[int]) -> list[TimedTokens]:
        """Splits generated tokens at their timestamp pairs."""
        found: list[TimedTokens] = []
        start, text = 0.0, list[int]()
        for token in token_ids:
            if token < self.first_timestamp_id:
                if token < self.end_id:
                    text.append(token)
                continue
            at = (token - self.first_timestamp_id) * SECONDS_PER_TICK
            if text:
                found.append(TimedTokens(start, at, text))
                text = []
            start = at
        return [*found, TimedTokens(start, None, text)] if text else found


def _required(value: Any, name: str) -> int:
    if value is None:
        raise CheckpointError(f"this Whisper checkpoint's generation config lacks {name}")
    return int(value)
