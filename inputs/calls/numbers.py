"""Checks of plain values that callers give."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from antiphon.config.errors import PromptError
from antiphon.config.foreign import shown


def is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise PromptError(f"{name} must be True or False, not {value!r:.60}")
    return bool(value)


def checked_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf
) -> float:
    """A finite number within these limits. Raises PromptError."""
    if not is_real(value) or not math.isfinite(value) or not least <= value <= most:
        within = "" if least == -math.inf else f" of at least {least:g}"
        within += "" if most == math.inf else f" and at most {most:g}"
        raise PromptError(f"{name} must be a number{within}, not {shown(value)}")
    return float(value)


def checked_optional(name: str, value: Any, least: float = -math.inf) -> float | None:
    """As `checked_number`; None switches off what the number is for."""
    return None if value is None else checked_number(name, value, least)


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number. Raises PromptError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise PromptError(f"{name} must be a whole number of at least {least}, not {shown(value)}")
    return int(value)
