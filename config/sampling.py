"""What a caller may ask of decoding: `SamplingParams`, with vLLM's names."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from antiphon.config import foreign_sampling
from antiphon.config.errors import SamplingError, nearest
from antiphon.config.foreign import refusal
from antiphon.config.sampling_checks import CHECKS, plain_values

Class = TypeVar("Class", bound=type)


def _checked_constructor(cls: Class) -> Class:
    """Wraps the `__init__` that `dataclass` generated; editors still show its
    signature.

    The wrapper takes values by name only, refuses unknown names, passes plain values on
    and notes in `fields_set` which names were set.
    """
    generated = cls.__init__  # type: ignore[misc]
    names = {option.name for option in fields(cls)}

    @functools.wraps(generated)
    def constructor(self: Any, *positional: Any, **options: Any) -> None:
        if positional:
            raise SamplingError(
                "give sampling parameters by name, as in SamplingParams(temperature=0.5)"
            )
        for name in [name for name in options if name not in names]:
            _refuse(name, options.pop(name))
        if options.get("fields_set") is not None:
            options = _set_in_copy(options)
        options.pop("fields_set", None)
        values = plain_values(options)
        generated(self, **values, fields_set=frozenset(values.keys() & options.keys()))

    cls.__init__ = constructor  # type: ignore[misc]
    return cls


def _set_in_copy(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that count as set in a copy by `dataclasses.replace`.

    `replace` passes the changes first, then every other field in the order of the
    class, which begins with `fields_set`. So a name before `fields_set` is set anew,
    and a name behind it is set if it was set before.
    """
    set_before = options["fields_set"]
    if not isinstance(set_before, frozenset):
        raise _unknown("fields_set")
    names = list(options)
    changes = names[: names.index("fields_set")]
    return {name: options[name] for name in names if name in changes or name in set_before}


def _refuse(name: str, value: Any) -> None:
    """Raises SamplingError for an unknown name, and for a name of another tool whose
    value asks for something that is not done here."""
    if name not in foreign_sampling.NOT_HONORED:
        raise _unknown(name)
    if (reason := refusal(name, value, foreign_sampling.NOT_HONORED)) is not None:
        raise SamplingError(reason)


def _unknown(name: str) -> SamplingError:
    return SamplingError(f"unknown sampling parameter '{name}'.{nearest(name, list(CHECKS))}")


@_checked_constructor
@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. The defaults decode greedily up to the
    model's end.

    None always stands for the default. A parameter that is not set takes the value of
    the checkpoint's generation config, if it has one: temperature, top_p, top_k, min_p,
    repetition_penalty, no_repeat_ngram_size, max_tokens, min_tokens, and num_beams as
    beam_size, with length_penalty and early_stopping. A value that is set holds,
    whether by the constructor or by `dataclasses.replace`, also where it equals the
    default.

    temperature: 0 is greedy. top_k: 0 or -1 is off. top_p, min_p: probabilities.
    seed: the same seed gives the same text, whatever else is in the batch; sample i of
        n uses seed + i.
    max_tokens: None allows as many as the checkpoint's settings or its positions do.
    logprobs: None is off; k adds the k likeliest tokens.
    beam_size: sequences of a beam search, of which the n best are returned; 1 is off,
        also where the checkpoint has num_beams. early_stopping and length_penalty as in
        transformers; patience and length_penalty as in openai/whisper
        (docs/generation.md says which rule holds).
    logprob_token_ids: log-probabilities of these tokens instead, likeliest first; their
        ranks are among themselves.

    Every field of the result is plain data: `stop` and token ids are tuples.

    Raises SamplingError, which names the parameter, its range and the value; also for
    names that other tools have and that are not honored here.
    """

    # The constructor fills it in. It must be the first field: see `_set_in_copy`.
    fields_set: frozenset[str] = field(default=frozenset(), repr=False)
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: Sequence[str] | str = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    allowed_token_ids: Sequence[int] | None = None
    skip_special_tokens: bool = True
    logprob_token_ids: Sequence[int] | None = None
    no_repeat_ngram_size: int = 0
    beam_size: int = 1
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] = False
    patience: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingError(
                f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}",
                parameter="min_tokens",
            )
        if self.beam_size > 1:
            return self._check_beams()
        if self.temperature == 0.0 and self.n > 1:
            raise SamplingError(
                f"n={self.n} samples of greedy decoding would all be the same: "
                "set temperature above 0, or beam_size for the n best of a beam search",
                parameter="n",
            )

    def _check_beams(self) -> None:
        if self.temperature > 0.0:
            raise SamplingError(
                f"beam_size={self.beam_size} takes the likeliest tokens, and "
                f"temperature={self.temperature:g} draws them: give one of both",
                parameter="beam_size",
            )
        if self.n > self.beam_size:
            raise SamplingError(
                f"n={self.n} outputs of {self.beam_size} beams: raise beam_size, or lower n",
                parameter="beam_size",
            )
        if {"patience", "early_stopping"} <= self.fields_set:
            raise SamplingError(
                "give patience (openai/whisper's rule) or early_stopping (transformers'), not both",
                parameter="patience",
            )

    def leaves_open(self, name: str) -> bool:
        """Whether the caller left this parameter to the checkpoint."""
        return name not in self.fields_set

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SamplingParams":
        """From a mapping, such as JSON's. Raises SamplingError as the constructor
        does."""
        if not isinstance(options, Mapping):
            raise SamplingError(
                f"sampling parameters must be a mapping, not {type(options).__name__}"
            )
        return cls(**{str(name): value for name, value in options.items()})
