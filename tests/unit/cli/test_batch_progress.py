"""What `antiphon batch` says while it works: a bar on a terminal, lines elsewhere."""

import logging
import sys
import time

import pytest

from antiphon.cli import batch_progress
from antiphon.cli.batch_progress import in_a_sentence, shown_progress, summary_of
from antiphon.jobs.meter import Meter
from antiphon.jobs.output import Counts


def work(meter: Meter) -> None:
    for _ in range(10):
        meter.add(audio_seconds=2.0)
        time.sleep(0.01)


def test_lines_in_a_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_progress, "LINE_SECONDS", 0.03)
    meter = Meter(100, 20, 1)
    with caplog.at_level(logging.INFO, "antiphon"):
        with shown_progress(meter, quiet=True):
            work(meter)
        assert caplog.messages == []
        with shown_progress(meter, quiet=False):
            work(meter)
    assert "of 100 lines (" in caplog.messages[0]
    assert "1 failed, " in caplog.messages[0]
    assert caplog.messages[0].endswith(" left")


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_progress, "BAR_SECONDS", 0.02)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    meter = Meter(30, 20, 1)
    with shown_progress(meter, quiet=False):
        work(meter)
    drawn = capsys.readouterr().err
    assert "20/30" in drawn
    assert "30/30" in drawn
    assert "1 failed, " in drawn


def test_the_summary() -> None:
    now = 0.0
    meter = Meter(10, 4, 0, clock=lambda: now)
    for _ in range(5):
        meter.add(audio_seconds=8.0)
    meter.add(failed=True)
    now = 4.0
    summary = summary_of("m.jsonl", "tiny", 10, Counts(9, 1, 72.0), meter)
    assert summary["last_run"] == {
        "lines": 6,
        "seconds": 4.0,
        "lines_per_second": 1.5,
        "audio_seconds": 40.0,
        "times_real_time": 10.0,
    }
    assert in_a_sentence(summary) == (
        "all 10 lines are done; 72 s of sound; "
        "6 of them now, in 4.0 s (1.5 lines/s, 10.0x real time)"
    )
    assert "last_run" not in summary_of("m.jsonl", "tiny", 10, Counts(9, 1), None)
