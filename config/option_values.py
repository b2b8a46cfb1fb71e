"""Checks the value of an option against the type that its annotation asks for."""

import math
import operator
import os
from numbers import Real
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from antiphon.config.errors import ConfigurationError
from antiphon.config.foreign import shown
from antiphon.config.foreign_options import option_value, remedy

LARGEST = 2**31 - 1  # of any number: timers overflow above, and sums in int64 arrays


def checked(name: str, annotation: Any, value: Any, least: int = 1) -> Any:
    """The value as a plain str, bool, int or float. Whole numbers must be at least
    `least`, other numbers above 0; none may be above `LARGEST`.

    Takes other engines' spellings (`option_value`) and numpy's scalars. Raises
    ConfigurationError for a value of another type or outside the choices of a Literal.
    """
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    own = option_value(name, value)
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        if not isinstance(own, str) or own not in choices:
            raise ConfigurationError(
                f"{name} must be one of {', '.join(choices)}, not {shown(value)}{remedy(name, own)}"
            )
        return own
    if bool in kinds:
        return _flag(name, own)
    if str in kinds:
        if not isinstance(own, str) or not own:
            raise ConfigurationError(f"{name} must be a text that is not empty, not {shown(own)}")
        return own
    return whole_number(name, own, least) if int in kinds else number(name, own)


def _flag(name: str, value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # Python's and numpy's
        raise ConfigurationError(f"{name} must be true or false, not {shown(value)}")
    return bool(value)


def whole_number(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """Of any integral type. Raises ConfigurationError, which says what is allowed."""
    try:
        plain = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        plain = least - 1
    if not least <= plain <= most:
        raise ConfigurationError(
            f"{name} must be a whole number{_at_least(least)}, not {shown(value)}"
            f"{_at_most(plain, most)}"
        )
    return plain


def number(name: str, value: Any) -> float:
    """A number above 0, of any real type. Raises ConfigurationError otherwise."""
    try:
        plain = float(value) if isinstance(value, Real) and not isinstance(value, bool) else 0.0
    except OverflowError:
        plain = math.inf if value > 0 else 0.0
    if not 0.0 < plain <= LARGEST:
        raise ConfigurationError(
            f"{name} must be a number above 0, not {shown(value)}{_at_most(plain, LARGEST)}"
        )
    return plain


def _at_least(least: int) -> str:
    return f" above {least - 1}" if least > 0 else f" of {least} or more"


def _at_most(value: float, most: float) -> str:
    return f" (at most {most:.10g})" if value > most else ""


def model_name(model: Any) -> str:
    """The folder, hub id or size as a text. Raises ConfigurationError."""
    if (
        not isinstance(model, (str, os.PathLike))
        or not (name := os.fspath(model))
        or not isinstance(name, str)
    ):
        raise ConfigurationError(
            f"model must be a folder, a hub id or a size such as 'tiny', not {shown(model)}"
        )
    return name
