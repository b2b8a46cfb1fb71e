"""How long a client waits, and how often it asks again: wrong numbers are refused by name."""

import math
from typing import Any

import pytest

from antiphon.client.batch import Batch
from antiphon.client.policy import Policy

NO_NUMBERS: list[Any] = [-1, math.nan, math.inf, -math.inf, True, "3", [1]]


@pytest.mark.parametrize("name", ["timeout", "connect_timeout", "pause"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
def test_seconds(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be seconds"):
        Policy(**{name: value})


def test_no_timeout_and_no_pause_can_be_asked_for() -> None:
    assert Policy(timeout=None).limits.read is None
    assert Policy(pause=0).pause == 0
    with pytest.raises(ValueError, match="timeout must be seconds above 0"):
        Policy(timeout=0)
    with pytest.raises(ValueError, match="pause must be seconds"):
        Policy(pause=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.5, None], ids=str)
def test_counts(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^retries must be a whole number of 0 or more"):
        Policy(retries=value)
    with pytest.raises(ValueError, match=r"^concurrency must be a whole number of 1 or more"):
        Batch([], value, None, None)
