"""Where the next window begins if words have times, and what is taken for made up.

The expected values follow openai/whisper's transcribe() with word_timestamps and
hallucination_silence_threshold.
"""

from typing import Any

import pytest

from antiphon.engine.outputs import Segment, Word
from antiphon.engine.transcribing.reach import Heard, reach


def said(start: float, end: float, probability: float = 0.9, count: int = 4) -> Segment:
    """A segment of words of equal length."""
    step = (end - start) / count
    words = tuple(
        Word(start + i * step, start + (i + 1) * step, f" w{i}", probability) for i in range(count)
    )
    return Segment(start, end, "words", words=words)


def heard(**values: Any) -> Heard:
    return Heard(
        **{"sound": 30.0, "whole": 30.0, "start": 60.0, "left": 100.0, "last_word": -1.0,
           "last_slice": 20.0, **values}
    )  # fmt: skip


ODD = 0.05  # a probability


@pytest.mark.parametrize(
    ("segments", "silent_end", "threshold", "expected"),
    [
        ([said(0, 10), said(10, 19)], False, None, (2, 19.0, False)),
        ([said(0, 10), said(10, 19)], True, None, (2, None, False)),
        # Words reach nearly to the window's end: all of it was heard.
        ([said(0, 10), said(10, 29)], False, 2.0, (2, None, False)),
        ([said(0, 10), said(10, 25)], False, 2.0, (2, 25.0, False)),
        # A silence, then what is made up: heard again from there.
        ([said(5, 9, ODD), said(10, 19)], False, 2.0, (0, 5, True)),
        ([said(1, 3, ODD), said(10, 19)], False, 2.0, (0, 1.0, False)),
        ([said(0, 5), said(9, 12, ODD), said(16, 20)], False, 2.0, (1, 9, False)),
        ([said(0, 5), said(9, 12, ODD), said(12.5, 20)], False, 2.0, (3, 20.0, False)),
        ([said(0, 5), said(9, 12, ODD), said(12.5, 20, ODD)], False, 2.0, (1, 9, False)),
    ],
)
def test_the_next_window(
    segments: list[Segment], silent_end: bool, threshold: float | None, expected: Any
) -> None:
    by_timestamps = None if silent_end else 20.0
    assert tuple(reach(heard(), segments, by_timestamps, silent_end, threshold)) == expected


def test_what_is_made_up_at_the_end_of_a_recording_ends_it() -> None:
    segments = [said(0, 5), said(20, 28.5, ODD)]
    assert reach(heard(left=30.0), segments, 28.5, False, 2.0) == (1, 30.0, False)


def test_without_words_the_last_piece_counts() -> None:
    assert reach(heard(last_slice=7.0), [], 20.0, False, None) == (0, 7.0, False)


def test_words_of_many_kinds_are_odd() -> None:
    short = Segment(9, 9.2, "x", words=tuple(Word(9, 9.001, f" {i}", 0.9) for i in range(4)))
    long = Segment(9, 15, "x", words=(Word(9, 15, " a", 0.9),))
    marks = Segment(9, 12, "x", words=(Word(9, 12, "?", 0.9),))
    for segment in (short, long, marks):
        assert reach(heard(), [said(0, 5), segment], 20.0, False, 2.0).kept == 1
