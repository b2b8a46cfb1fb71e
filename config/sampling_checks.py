"""The range of every sampling parameter, and the plain form that its values take."""

import operator
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from antiphon.config.errors import SamplingError, about
from antiphon.config.foreign import shown
from antiphon.config.option_values import LARGEST

MAX_LOGPROBS = 20
MAX_BEAMS = 64
# Logits divided by a lower temperature overflow float32, and its draw is certain
# anyway.
GREEDY_BELOW = 1e-5

Check = Callable[[str, Any], Any]  # (name, value) -> plain value; raises SamplingError


def plain_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the values of `options`, whose names are known; leaves out those of None.

    The result holds Python's own numbers, strings and tuples. `logprobs` becomes the
    number of `logprob_token_ids` where these are named. Raises SamplingError.
    """
    values = {name: value for name, value in options.items() if value is not None}
    count = values.pop("logprobs", None) if "logprob_token_ids" in values else None
    plain = {name: _plain(name, values[name]) for name in CHECKS if name in values}
    if "logprob_token_ids" in plain:
        plain["logprobs"] = len(plain["logprob_token_ids"])
        if count is not None and _index(count) != plain["logprobs"]:
            raise SamplingError("give logprobs or logprob_token_ids, not both")
    return plain


def _plain(name: str, value: Any) -> Any:
    with about(name):
        return CHECKS[name](name, value)


def _wrong(name: str, rule: str, value: Any) -> SamplingError:
    return SamplingError(f"{name} must be {rule}, not {shown(value)}")


# ---------------------------------------------------------------------- numbers


def _whole(low: int, high: int, rule: str) -> Check:
    def check(name: str, value: Any) -> int:
        number = _index(value)
        if number is None:
            raise _wrong(name, f"a whole number {rule}", value)
        if number > high == LARGEST:  # which no rule names
            raise _wrong(name, f"{rule}, and at most {LARGEST}", value)
        if not low <= number <= high:
            raise _wrong(name, rule, value)
        return number

    return check


def _number(holds: Callable[[float], bool], rule: str) -> Check:
    """A check for real numbers of any type; they become floats. NaN never passes."""

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


def _between(low: float, high: float, rule: str) -> Check:
    return _number(lambda number: low <= number <= high, rule)


def _temperature(name: str, value: Any) -> float:
    number: float = _between(0.0, 1e4, "at least 0 (greedy) and at most 10000")(name, value)
    return 0.0 if number < GREEDY_BELOW else number


def _seed(name: str, value: Any) -> int:
    number = _index(value)
    if number is None:
        raise _wrong(name, "a whole number or None", value)
    return number % 2**63


def _index(value: Any) -> int | None:
    """An integer of any type (Python's, numpy's, a tensor's) as int; None for anything
    else, booleans and floats included."""
    try:
        return None if _is_flag(value) else operator.index(value)
    except Exception:  # a caller's own type may raise anything
        return None


def _is_flag(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # Python's and numpy's


def _flag(name: str, value: Any) -> bool:
    if not _is_flag(value):
        raise _wrong(name, "True or False", value)
    return bool(value)


def _flag_or_never(name: str, value: Any) -> bool | str:
    if isinstance(value, str) and value == "never":
        return "never"
    if not _is_flag(value):
        raise _wrong(name, "True, False or 'never'", value)
    return bool(value)


# ---------------------------------------------------------------------- strings and token ids


def _strings(name: str, value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else _items(value)
    if values is None or not all(isinstance(text, str) and text for text in values):
        raise _wrong(name, "a string that is not empty, or a list of such", value)
    return tuple(str(text) for text in values)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    rule = "a list of token ids, which are whole numbers from 0 on"
    values = _items(value)
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
    """Biases by token id. Keys may be strings of digits, as in JSON."""
    rule = "a mapping from token ids to numbers between -10000 and 10000"
    if not isinstance(value, Mapping):
        raise _wrong(name, rule, value)
    number = _between(-1e4, 1e4, "between -10000 and 10000")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        is_digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10
        # A later check refuses negative ids: it knows the vocabulary, and says which
        # exist.
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


def _items(value: Any) -> list[Any] | None:
    """The items of a list, tuple, set or array; None for anything else."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Iterable):
        return None
    try:
        return list(value)
    except Exception:  # arrays of no dimension raise here; callers' own types raise anything
        return None


CHECKS: dict[str, Check] = {
    "n": _whole(1, 1024, "between 1 and 1024"),
    "temperature": _temperature,
    "top_p": _number(lambda number: 0.0 < number <= 1.0, "in (0, 1]"),
    "top_k": _whole(-1, LARGEST, "at least -1 (0 and -1 turn it off)"),
    "min_p": _between(0.0, 1.0, "in [0, 1]"),
    "seed": _seed,
    "max_tokens": _whole(1, LARGEST, "at least 1, or None"),
    "min_tokens": _whole(0, LARGEST, "at least 0"),
    "stop": _strings,
    "stop_token_ids": _token_ids,
    "include_stop_str_in_output": _flag,
    "ignore_eos": _flag,
    "repetition_penalty": _between(0.01, 100.0, "in [0.01, 100] (1 is off)"),
    "presence_penalty": _between(-2.0, 2.0, "in [-2, 2]"),
    "frequency_penalty": _between(-2.0, 2.0, "in [-2, 2]"),
    "logprobs": _whole(0, MAX_LOGPROBS, f"between 0 and {MAX_LOGPROBS}, or None"),
    "logit_bias": _bias,
    "allowed_token_ids": _allowed_ids,
    "skip_special_tokens": _flag,
    "logprob_token_ids": _distinct_ids,
    "no_repeat_ngram_size": _whole(0, LARGEST, "at least 0 (0 is off)"),
    "beam_size": _whole(1, MAX_BEAMS, f"between 1 (off) and {MAX_BEAMS}"),
    "length_penalty": _between(-10.0, 10.0, "in [-10, 10]"),
    "early_stopping": _flag_or_never,
    "patience": _number(lambda number: 0.0 < number <= 100.0, "in (0, 100]"),
}
