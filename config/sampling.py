"""What a caller may ask of decoding (`SamplingParams`), and what the model's rules add (`DecodingRules`)."""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Real
from typing import Any, TypeVar

from antiphon.config import foreign
from antiphon.config.errors import SamplingError, nearest
from antiphon.config.foreign import shown

MAX_LOGPROBS = 20
LARGEST = 2**31 - 1  # of whole numbers: they go into arrays of int64, and are added up there
GREEDY_BELOW = (
    1e-5  # temperature: dividing by less overflows float32, and the likeliest token is certain
)

Class = TypeVar("Class", bound=type)
Rule = Callable[
    [str, Any], Any
]  # (name, value) -> the value in its plain form; raises SamplingError


def _wrong(name: str, rule: str, value: Any) -> SamplingError:
    return SamplingError(f"{name} must be {rule}, not {shown(value)}")


def _whole(low: int, high: int, rule: str) -> Rule:
    def check(name: str, value: Any) -> int:
        number = _index(value)
        if number is None:
            raise _wrong(name, f"a whole number {rule}", value)
        if not low <= number <= high:
            raise _wrong(name, rule, value)
        return number

    return check


def _number(holds: Callable[[float], bool], rule: str) -> Rule:
    """A real number of any type, as a float. NaN holds nowhere."""

    def check(name: str, value: Any) -> float:
        try:
            number = float(value) if isinstance(value, Real) and not _is_flag(value) else None
        except OverflowError:
            number = None
        if number is None:
            raise _wrong(name, f"a number {rule}", value)
        if not holds(number):
            raise _wrong(name, rule, value)
        return number

    return check


def _seed(name: str, value: Any) -> int:
    number = _index(value)
    if number is None:
        raise _wrong(name, "a whole number or None", value)
    return number % 2**63


def _index(value: Any) -> int | None:
    """Of any integer type (Python's, numpy's, a tensor's); None for all else, bools and floats among it."""
    try:
        return None if _is_flag(value) else operator.index(value)
    except Exception:  # of a caller's own type, whatever it raises
        return None


def _is_flag(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # Python's and numpy's


def _flag(name: str, value: Any) -> bool:
    if not _is_flag(value):
        raise _wrong(name, "True or False", value)
    return bool(value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else _listed(value)
    if values is None or not all(isinstance(text, str) and text for text in values):
        raise _wrong(name, "a string that is not empty, or a list of such", value)
    return tuple(str(text) for text in values)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    rule = "a list of token ids, which are whole numbers from 0 on"
    values = _listed(value)
    if values is None:
        raise _wrong(name, rule, value)
    return tuple(_token_id(name, rule, token, value) for token in values)


def _allowed_ids(name: str, value: Any) -> tuple[int, ...]:
    ids = _token_ids(name, value)
    if not ids:
        raise _wrong(name, "None or a list of token ids that is not empty", value)
    return ids


def _distinct_ids(name: str, value: Any) -> tuple[int, ...]:
    ids = _allowed_ids(name, value)
    if len(set(ids)) < len(ids):
        raise _wrong(name, "None or a list of distinct token ids", value)
    return ids


def _bias(name: str, value: Any) -> dict[int, float]:
    """By token id. JSON has no other keys than strings: those of whole numbers are taken."""
    rule = "a mapping from token ids to numbers between -10000 and 10000"
    if not isinstance(value, Mapping):
        raise _wrong(name, rule, value)
    number = _number(lambda bias: -1e4 <= bias <= 1e4, "between -10000 and 10000")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        is_digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10
        # Negative ids are left to the check against the vocabulary, which says what there is.
        token = _token_id(name, rule, int(key) if is_digits else key, value, least=-LARGEST)
        if token in biases:
            raise _wrong(name, f"{rule}, each once (token {token} is there twice)", value)
        biases[token] = number(f"{name} of token {token}", bias)
    return biases


def _token_id(name: str, rule: str, token: Any, value: Any, least: int = 0) -> int:
    id_ = _index(token)
    if id_ is None or not least <= id_ <= LARGEST:
        raise _wrong(name, f"{rule} (here {shown(token)})", value)
    return id_


def _listed(value: Any) -> list[Any] | None:
    """The items of a list, tuple, set or array; None for what is none."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Iterable):
        return None
    try:
        return list(value)
    except (
        Exception
    ):  # arrays without a dimension say so only now; callers' own types raise anything
        return None


_PENALTY = _number(lambda x: -2.0 <= x <= 2.0, "in [-2, 2]")
RULES: dict[str, Rule] = {
    "n": _whole(1, 1024, "between 1 and 1024"),
    "temperature": _number(lambda x: 0.0 <= x <= 1e4, "at least 0 (greedy) and at most 10000"),
    "top_p": _number(lambda x: 0.0 < x <= 1.0, "in (0, 1]"),
    "top_k": _whole(-1, LARGEST, "at least -1 (0 and -1 turn it off)"),
    "min_p": _number(lambda x: 0.0 <= x <= 1.0, "in [0, 1]"),
    "seed": _seed,
    "max_tokens": _whole(1, LARGEST, "at least 1, or None"),
    "min_tokens": _whole(0, LARGEST, "at least 0"),
    "stop": _strings,
    "stop_token_ids": _token_ids,
    "include_stop_str_in_output": _flag,
    "ignore_eos": _flag,
    "repetition_penalty": _number(lambda x: 0.01 <= x <= 100.0, "in [0.01, 100] (1 is off)"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logprobs": _whole(0, MAX_LOGPROBS, f"between 0 and {MAX_LOGPROBS}, or None"),
    "logit_bias": _bias,
    "allowed_token_ids": _allowed_ids,
    "skip_special_tokens": _flag,
    "logprob_token_ids": _distinct_ids,
}


def _by_name_only(cls: Class) -> Class:
    """A constructor whose unknown names raise SamplingError, and which notes the names that were set.

    The generated `__init__` stays what type checkers and editors see.
    """
    init = cls.__init__  # type: ignore[misc]
    defaults = {each.name: _default(each) for each in fields(cls)}

    @functools.wraps(init)
    def checked(self: Any, *values: Any, **options: Any) -> None:
        if values:
            raise SamplingError(
                "give sampling parameters by name, as in SamplingParams(temperature=0.5)"
            )
        for name in [name for name in options if name not in defaults]:
            _refuse(name, options.pop(name), list(RULES))
        copied = options.pop("given", None)  # by dataclasses.replace, which passes every field
        options = {name: value for name, value in options.items() if value is not None}
        if copied is None:
            given = frozenset(options)
        else:
            given = copied | {name for name, value in options.items() if value != defaults[name]}
        init(self, **options, given=given)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def _refuse(name: str, value: Any, valid: list[str]) -> None:
    """Raises for a name that is not ours, unless it is known and its value changes nothing."""
    if name not in foreign.SAMPLING:
        raise SamplingError(f"unknown sampling parameter '{name}'.{nearest(name, valid)}")
    if (reason := foreign.refusal(name, value, foreign.SAMPLING)) is not None:
        raise SamplingError(reason)


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


@_by_name_only
@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. The names are vLLM's; defaults decode greedily to the model's own end.

    None always stands for the default. What is left open takes the value of the checkpoint's generation config
    where that has one (temperature, top_p, top_k, min_p, repetition_penalty, max_tokens, min_tokens).

    temperature: 0 is greedy. top_k: 0 or -1 is off. top_p, min_p: probabilities.
    seed: the same seed gives the same text, whatever else is in the batch; sample i of n uses seed + i.
    max_tokens: None is as many as the checkpoint or its positions allow.
    logprobs: None is off, k adds the k likeliest tokens.
    logprob_token_ids: log-probabilities of these tokens instead, likeliest first; their ranks are among themselves.
    Raises SamplingError, which names the field, the rule and the value; so do names that are known elsewhere but
    not honored here. Afterwards every field is plain data: `stop` and token ids are tuples.
    """

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
    given: frozenset[str] = field(
        default=frozenset(), repr=False
    )  # the names that were set; filled in here

    def __post_init__(self) -> None:
        self._count_named_logprobs()
        for (
            name,
            rule,
        ) in RULES.items():  # a tenth of a millisecond for all of them: only what was set
            if name not in self.given or (
                name == "logprobs" and self.logprob_token_ids is not None
            ):
                continue
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, rule(name, value))
        if self.temperature < GREEDY_BELOW:
            object.__setattr__(self, "temperature", 0.0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingError(
                f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}"
            )
        if self.temperature == 0.0 and self.n > 1:
            raise SamplingError(
                f"n={self.n} samples of greedy decoding would all be the same: set temperature above 0"
            )

    def _count_named_logprobs(self) -> None:
        """What reads `logprobs` then needs to know of no second case."""
        if self.logprob_token_ids is None:
            return
        ids = _distinct_ids("logprob_token_ids", self.logprob_token_ids)
        if self.logprobs not in (None, len(ids)):
            raise SamplingError("give logprobs or logprob_token_ids, not both")
        object.__setattr__(self, "logprob_token_ids", ids)
        object.__setattr__(self, "logprobs", len(ids))

    def leaves_open(self, name: str) -> bool:
        """Whether the caller left this field to the checkpoint."""
        return name not in self.given

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SamplingParams":
        """From a mapping, as JSON has it. Raises SamplingError as the constructor does."""
        if not isinstance(options, Mapping):
            raise SamplingError(
                f"sampling parameters must be a mapping, not {type(options).__name__}"
            )
        return cls(**{str(name): value for name, value in options.items()})


@dataclass(frozen=True)
class TimestampRules:
    """Whisper's rules for timestamp tokens (Radford et al. 2022, openai/whisper `ApplyTimestampRules`)."""

    first_id: int  # <|0.00|>
    no_timestamps_id: int
    end_id: int  # ids below it are text
    max_initial: int | None  # the first timestamp is at most this many ticks
    last_id: int = (
        LARGEST  # the window's end; ids behind it were added to the vocabulary and are text
    )

    def holds(self, ids: Any) -> Any:
        """Which of `ids`, a tensor or an array, are timestamps."""
        return (ids >= self.first_id) & (ids <= self.last_id)


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
    bad_words: tuple[
        tuple[int, ...], ...
    ] = ()  # sequences of two tokens and more that are never completed
    timestamps: TimestampRules | None = None
