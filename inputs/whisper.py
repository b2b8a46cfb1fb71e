"""Whisper's prompt format and its timestamps (Radford et al. 2022, section 2.3)."""

from dataclasses import dataclass
from typing import Any, Literal

from antiphon.config.errors import CheckpointError, PromptError, nearest
from antiphon.config.model import ModelConfig
from antiphon.config.sampling import TimestampRules
from antiphon.inputs.languages import language_code

Task = Literal["transcribe", "translate"]
SECONDS_PER_TICK = 0.02


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

    def check(self, language: object, task: object) -> tuple[str | None, str]:
        """Language code (None: to be found) and task, in any spelling, as this checkpoint has them.

        Raises PromptError for what it does not know.
        """
        name = task.strip().lower() if isinstance(task, str) else None
        if not self.multilingual:
            if name != "transcribe" or not _is_english(language):
                raise PromptError("this checkpoint transcribes English only: leave out language and task")
            return "en", name
        if name is None or name not in self.tasks:
            raise PromptError(f"unknown task {str(task)[:40]!r}.{nearest(str(task), list(self.tasks))}")
        return language_code(language, self.languages), name

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

    def seconds_of(self, token: int) -> float | None:
        """What a timestamp says, from the window's start; None for any other token."""
        if token < self.first_timestamp_id:
            return None
        return (token - self.first_timestamp_id) * SECONDS_PER_TICK

    def is_text(self, token: int) -> bool:
        return token < self.end_id


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
