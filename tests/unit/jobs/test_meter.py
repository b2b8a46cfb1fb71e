"""Rates and remaining time, by a clock of the test's own."""

import pytest

from antiphon.jobs.meter import Meter, in_words


def test_what_it_says() -> None:
    now = 100.0
    meter = Meter(1000, 200, 1, clock=lambda: now)
    assert meter.sentence() == "200 of 1,000 lines (20 %), 1 failed, 0.0 lines/s"
    now += 10
    for _ in range(99):
        meter.add(audio_seconds=5.0)
    meter.add(failed=True)
    assert meter.sentence() == (
        "300 of 1,000 lines (30 %), 2 failed, 49.5x real time, 10.0 lines/s, 70 s left"
    )
    assert meter.remarks() == "2 failed, 49.5x real time"
    assert (meter.seconds, meter.done - meter.at_start) == (10.0, 100)


def test_the_rate_is_that_of_the_last_minute() -> None:
    now = 0.0
    meter = Meter(10_000, 0, 0, clock=lambda: now)
    for _ in range(50):  # 500 s of 10 lines each
        now += 10
        for _ in range(100):
            meter.add()
        assert meter.rates()[0] == pytest.approx(10.0)
    for _ in range(7):  # then 70 s of one each
        now += 10
        for _ in range(10):
            meter.add()
        rate = meter.rates()[0]
    assert rate == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(45, "45 s"), (700, "12 min"), (11_100, "3 h 05 min"), (200_000, "2 d 7 h")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
