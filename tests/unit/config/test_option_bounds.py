"""Options of pools that grow and shrink, and of restarts."""

from typing import Any

import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve


@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        ({}, (1, 1)),
        ({"decoder_replicas": 3}, (3, 3)),
        ({"decoder_max_replicas": 4}, (1, 4)),
        ({"decoder_replicas": 2, "decoder_min_replicas": 1, "decoder_max_replicas": 4}, (1, 4)),
    ],
)
def test_a_pool_has_a_fixed_size_unless_bounds_are_given(
    options: dict[str, Any], bounds: tuple[int, int]
) -> None:
    assert resolve("model", options, {}).decoder.bounds == bounds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_min_replicas": 2}, "decoder_min_replicas=2, decoder_replicas=1 and"),
        ({"encoder_replicas": 3, "encoder_max_replicas": 2}, "encoder_max_replicas=2 must not"),
        ({"ray": False, "decoder_max_replicas": 2}, "needs a process for each: leave out ray=F"),
        ({"ray": False, "name": "asr"}, "no other process can attach to name='asr'"),
        ({"max_restarts": -1}, "max_restarts must be a whole number of 0 or more"),
        ({"heartbeat_timeout": 0.0}, "heartbeat_timeout must be a number above 0"),
    ],
)
def test_impossible_ones_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve("model", options, {})


def test_no_restarts_can_be_asked_for() -> None:
    assert resolve("model", {"max_restarts": 0}, {}).workers.max_restarts == 0
