"""What a caller may ask of decoding (`SamplingParams`), and what the model's own rules add to it (`DecodingRules`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from antiphon.config.errors import SamplingError, nearest

MAX_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. The names are vLLM's; defaults decode greedily to the model's own end.

    temperature: 0 is greedy. top_k: 0 or -1 is off. top_p, min_p: probabilities.
    seed: the same seed gives the same text, whatever else is in the batch; sample i of n uses seed + i.
    max_tokens: None is as many as the model's positions allow. logprobs: None is off, k adds the k likeliest tokens.
    logprob_token_ids: log-probabilities of these tokens instead, likeliest first; their ranks are among themselves.
    forced_decoder_ids-style prompts are not here: give a decoder prompt instead.
    """

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] | list[str] | str = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | list[int] | None = None
    skip_special_tokens: bool = True
    logprob_token_ids: tuple[int, ...] | list[int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        for name, holds, rule in (
            ("n", 1 <= self.n <= 1024, "between 1 and 1024"),
            ("temperature", 0.0 <= self.temperature < float("inf"), "at least 0"),
            ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("top_k", self.top_k >= -1, "at least -1 (0 and -1 turn it off)"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "in [0, 1]"),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1, or None"),
            ("min_tokens", self.min_tokens >= 0, "at least 0"),
            ("repetition_penalty", 0.0 < self.repetition_penalty < float("inf"), "greater than 0"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "in [-2, 2]"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "in [-2, 2]"),
            (
                "logprobs",
                self.logprobs is None or self.logprob_token_ids or 0 <= self.logprobs <= MAX_LOGPROBS,
                f"between 0 and {MAX_LOGPROBS}, or None",
            ),
            ("stop", all(self.stop), "made of strings that are not empty"),
            ("allowed_token_ids", self.allowed_token_ids is None or len(self.allowed_token_ids) > 0, "None or not empty"),
        ):
            if not holds:
                raise SamplingError(f"{name} must be {rule}, not {getattr(self, name)!r}")
        if self.logprob_token_ids is not None:
            self._set_logprob_ids()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingError(f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}")
        if self.temperature == 0.0 and self.n > 1:
            raise SamplingError(f"n={self.n} samples of greedy decoding would all be the same: set temperature above 0")

    def _set_logprob_ids(self) -> None:
        """What reads `logprobs` then needs to know of no second case."""
        ids = tuple(self.logprob_token_ids or ())
        if not ids or len(set(ids)) < len(ids):
            raise SamplingError(f"logprob_token_ids must be None or distinct token ids, not {list(ids)}")
        if self.logprobs not in (None, len(ids)):
            raise SamplingError("give logprobs or logprob_token_ids, not both")
        object.__setattr__(self, "logprob_token_ids", ids)
        object.__setattr__(self, "logprobs", len(ids))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SamplingParams":
        """From a mapping; an unknown name raises and names the nearest valid one."""
        valid = [each.name for each in fields(cls)]
        for name in options:
            if name not in valid:
                raise SamplingError(f"unknown sampling parameter '{name}'.{nearest(name, valid)}")
        return cls(**options)


@dataclass(frozen=True)
class TimestampRules:
    """Whisper's rules for timestamp tokens (Radford et al. 2022, openai/whisper `ApplyTimestampRules`)."""

    first_id: int  # <|0.00|>; every id from here on is a timestamp
    no_timestamps_id: int
    end_id: int  # ids below it are text
    max_initial: int | None  # the first timestamp is at most this many ticks


@dataclass(frozen=True)
class DecodingRules:
    """What the model's generation config demands of every request, after `SamplingParams` has had its say."""

    stop_ids: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()  # never
    begin_suppress: tuple[int, ...] = ()  # not as the first generated token
    forced_first: int | None = None  # the first generated token
    forced_last: int | None = None  # the token at the length limit
    min_tokens: int = 0  # no stop token before as many are generated
    no_repeat_ngram: int = 0  # no n tokens twice in a row of this length; 0 is off
    timestamps: TimestampRules | None = None
