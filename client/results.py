"""What calls return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Word:
    """Seconds from the start of the recording. Antiphon's `text` has the blank before the word, and
    other servers tell no probability."""

    start: float
    end: float
    text: str
    probability: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        return cls(values["start"], values["end"], values["word"], values.get("probability"))


@dataclass(frozen=True)
class Segment:
    """Seconds from the start of the recording. `words`: where they were asked for."""

    start: float
    end: float
    text: str
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    tokens: list[int] = field(repr=False, default_factory=list)
    words: list[Word] | None = field(repr=False, default=None)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        if known.get("words") is not None:
            known["words"] = [Word.of(word) for word in known["words"]]
        return cls(**known)


@dataclass(frozen=True)
class Transcript:
    """`language`: its English name. `duration`: seconds. `words`: of the whole, where a server was
    asked for them with `timestamp_granularities=["word"]`. `logprobs`: of the tokens, as the server
    gives them for `include=["logprobs"]`. Of another format, such as srt, there is `text` alone."""

    text: str
    language: str | None = None
    duration: float | None = None
    segments: list[Segment] = field(default_factory=list)
    words: list[Word] = field(repr=False, default_factory=list)
    logprobs: list[dict[str, Any]] | None = field(repr=False, default=None)

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Self:
        segments = [Segment.of(segment) for segment in reply.get("segments") or ()]
        words = [Word.of(word) for word in reply.get("words") or ()]
        return cls(
            reply["text"],
            reply.get("language"),
            reply.get("duration"),
            segments,
            words,
            reply.get("logprobs"),
        )


@dataclass(frozen=True)
class Completion:
    """The text of one prompt, and why it ends: 'stop' or 'length'. `texts` and `finish_reasons`
    have all its samples, and so has `logprobs`, as the server gives them where they were asked for:
    a mapping with `tokens`, `token_logprobs` and `top_logprobs`, or with `content` for a chat."""

    text: str
    finish_reason: str | None
    texts: list[str] = field(repr=False, default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: list[str | None] = field(repr=False, default_factory=list)
    logprobs: list[dict[str, Any] | None] = field(repr=False, default_factory=list)

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Self:
        choices, usage = reply["choices"], reply.get("usage") or {}
        texts = [
            choice["text"] if "text" in choice else choice["message"]["content"] or ""
            for choice in choices
        ]
        reasons = [choice.get("finish_reason") for choice in choices]
        return cls(
            texts[0],
            reasons[0],
            texts,
            usage.get("prompt_tokens", 0),
            usage.get("completion_tokens", 0),
            reasons,
            [choice.get("logprobs") for choice in choices],
        )


@dataclass(frozen=True)
class Model:
    """`modalities`: 'audio', 'text' and 'image', as far as the server says so."""

    id: str
    modalities: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        return cls(entry["id"], tuple(entry.get("input_modalities") or ()))
