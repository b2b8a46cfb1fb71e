"""The policy by which pools of workers grow and shrink."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.actors.scaling import GROW_SECONDS, SHRINK_SECONDS, Autoscaler, Bounds, demand


def steady(scaler: Autoscaler, work: float, current: int, seconds: float) -> int:
    """What is wanted after this work has lasted for `seconds`."""
    scaler.wanted(work, current, 100.0)
    return scaler.wanted(work, current, 100.0 + seconds)


def test_demand_counts_what_each_worker_can_hold() -> None:
    loads = [{"open": 96, "capacity": 64}, {"open": 32, "capacity": 64}, {}]
    assert demand(loads) == 2.0


@pytest.mark.parametrize(
    ("work", "current", "seconds", "wanted"),
    [
        (1.0, 1, GROW_SECONDS, 1),  # just fits
        (1.2, 1, GROW_SECONDS - 0.1, 1),  # not for long enough
        (1.2, 1, GROW_SECONDS, 2),
        (3.5, 1, GROW_SECONDS, 4),  # in one go
        (99.0, 2, GROW_SECONDS, 4),  # not beyond the bound
        (0.4, 2, SHRINK_SECONDS - 1, 2),
        (0.4, 2, SHRINK_SECONDS, 1),
        (0.6, 2, SHRINK_SECONDS, 2),  # one would be too busy
        (0.0, 4, SHRINK_SECONDS, 3),  # one at a time
        (0.0, 1, SHRINK_SECONDS, 1),
    ],
)
def test_growing_and_shrinking(work: float, current: int, seconds: float, wanted: int) -> None:
    assert steady(Autoscaler(Bounds(1, 4)), work, current, seconds) == wanted


def test_a_burst_that_passes_starts_nobody() -> None:
    scaler = Autoscaler(Bounds(1, 4))
    counts = [scaler.wanted(work, 1, now) for now, work in enumerate([2.0, 0.5, 2.0, 0.5, 2.0])]
    assert counts == [1] * 5


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 5)), min_size=1),
    st.integers(1, 3),
    st.integers(0, 4),
)
def test_the_bounds_always_hold(steps: list[tuple[float, float]], least: int, more: int) -> None:
    scaler, current, now = Autoscaler(Bounds(least, least + more)), least, 1.0
    for work, seconds in steps:
        now += seconds
        current = scaler.wanted(work, current, now)
        assert least <= current <= least + more
