"""Numbers of a load: wrong ones are refused before any request is sent."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from antiphon.benchmarks.service.arrivals import ClosedLoop, OpenLoop
from antiphon.benchmarks.service.loads import Target
from antiphon.benchmarks.serving import Load
from antiphon.config.errors import ConfigurationError


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "2"], ids=str)
@pytest.mark.parametrize(
    "load",
    [
        ClosedLoop,
        OpenLoop,
        lambda value: OpenLoop(1.0, value),
        lambda value: Target("server", timeout=value),
        lambda value: Load(1, value, 1),
    ],
)
def test_numbers_of_loads(load: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a (whole )?number above 0"):
        load(value)


def test_gaps_may_be_equal_but_not_negative() -> None:
    assert OpenLoop(2.0, burstiness=math.inf)
    for burstiness in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigurationError, match="burstiness must be above 0"):
            OpenLoop(2.0, burstiness=burstiness)
