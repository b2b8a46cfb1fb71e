"""Checks of plain values that callers give."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from antiphon.config.errors import PromptError
from antiphon.config.foreign import shown
from antiphon.config.option_values import LARGEST


def is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """True for a real number that a float can hold."""
    try:
        return is_real(value) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise PromptError(f"{name} must be True or False, not {value!r:.60}")
    return bool(value)


def checked_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf
) -> float:
    """A finite number within these limits. Raises PromptError."""
    if not is_finite(value) or not least <= value <= most:
        within = "" if least == -math.inf else f" of at least {least:g}"
        within += "" if most == math.inf else f" and at most {most:g}"
        raise PromptError(f"{name} must be a number{within}, not {shown(value)}")
    return float(value)


def checked_optional(name: str, value: Any, least: float = -math.inf) -> float | None:
    """As `checked_number`; None switches off what the number is for."""
    return None if value is None else checked_number(name, value, least)


def checked_count(name: str, value: Any) -> int:
    """A whole number above 0. Raises PromptError."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not 1 <= value <= LARGEST:
        most = f" and at most {LARGEST}" if is_whole and value > LARGEST else ""
        raise PromptError(f"{name} must be a whole number of at least 1{most}, not {shown(value)}")
    return int(value)
