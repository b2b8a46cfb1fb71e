"""Numbers of calls: those that no float or array holds are refused as others are."""

import math
from typing import Any

import pytest

from antiphon.config.errors import PromptError
from antiphon.inputs.calls.numbers import checked_count, checked_number
from antiphon.inputs.calls.options import checked_priority


@pytest.mark.parametrize("value", [10**400, -(10**400), math.inf, math.nan, True, "1"], ids=str)
def test_numbers(value: Any) -> None:
    with pytest.raises(PromptError, match=r"^size must be a number, not"):
        checked_number("size", value)


@pytest.mark.parametrize("value", [10**400, 2**31, 0, -1, 1.0, True, "1"], ids=lambda v: str(v)[:9])
def test_counts(value: Any) -> None:
    with pytest.raises(PromptError, match=r"^size must be a whole number of at least 1"):
        checked_count("size", value)


@pytest.mark.parametrize("value", [2**31, -(2**80)])
def test_priorities_fit_into_messages(value: int) -> None:
    with pytest.raises(PromptError, match="priority must be between -2147483647 and 2147483647"):
        checked_priority(value)
    assert checked_priority(-5) == -5
