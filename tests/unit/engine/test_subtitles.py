"""Subtitles of words, as openai/whisper's command cuts them; and its JSON."""

import json
from typing import Any

import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.engine.output_formats import WRITERS
from antiphon.engine.outputs import Segment, Transcription, Word
from antiphon.engine.subtitles import SubtitleRules, cues


def segment(start: float, text: str) -> Segment:
    """Each word takes half a second."""
    words = [
        Word(start + i / 2, start + (i + 1) / 2, f" {word}", 0.5)
        for i, word in enumerate(text.split())
    ]
    return Segment(start, words[-1].end, text, [1, 2], words=tuple(words), id=3, seek=100)


RESULT = Transcription(
    "", "en", [segment(0.0, "one two three"), segment(1.5, "four five six"), segment(9.0, "end")],
    10.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, [(0, 1.5, "one two three"), (1.5, 3, "four five six"), (9, 9.5, "end")]),
        (
            {"max_line_width": 7},
            [(0, 1.5, "one two\nthree"), (1.5, 3, "four\nfive\nsix"), (9, 9.5, "end")],
        ),
        # With both, subtitles go over the ends of segments, but not over long pauses.
        (
            {"max_line_width": 14, "max_line_count": 1},
            [(0, 1.5, "one two three"), (1.5, 3, "four five six"), (9, 9.5, "end")],
        ),
        (
            {"max_line_width": 8, "max_line_count": 2},
            [(0, 1.5, "one two\nthree"), (1.5, 3, "four\nfive six"), (9, 9.5, "end")],
        ),
        (
            {"max_words_per_line": 2},
            [
                (0, 1, "one two"), (1, 1.5, "three"), (1.5, 2.5, "four five"), (2.5, 3, "six"),
                (9, 9.5, "end"),
            ],
        ),
    ],
)  # fmt: skip
def test_words_are_spread_over_subtitles(
    rules: dict[str, int], expected: list[tuple[float, float, str]]
) -> None:
    assert list(cues(RESULT, SubtitleRules(**rules))) == expected


def test_each_word_is_underlined_in_its_time() -> None:
    late = Transcription("", "en", [
        Segment(0, 2, "a b", words=(Word(0.0, 0.5, " a"), Word(1.0, 2.0, " b")))
    ], 2.0)  # fmt: skip
    assert list(cues(late, SubtitleRules(highlight_words=True))) == [
        (0.0, 0.5, "<u>a</u> b"), (0.5, 1.0, "a b"), (1.0, 2.0, "a <u>b</u>"),
    ]  # fmt: skip


def test_files_have_the_rules() -> None:
    srt = WRITERS["srt"](RESULT, SubtitleRules(max_line_width=7))
    assert srt.startswith("1\n00:00:00,000 --> 00:00:01,500\none two\nthree\n\n2\n")
    vtt = WRITERS["vtt"](RESULT, SubtitleRules(max_words_per_line=2))
    assert vtt.startswith("WEBVTT\n\n00:00.000 --> 00:01.000\none two\n\n")


@pytest.mark.parametrize("name", ["max_line_width", "max_line_count", "max_words_per_line"])
def test_impossible_rules_are_refused(name: str) -> None:
    rules: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigurationError, match=f"{name}=0"):
        SubtitleRules(**rules)


def test_json_has_openai_whispers_fields() -> None:
    content = json.loads(WRITERS["json"](RESULT, None))
    assert {"text", "language", "segments", "duration"} <= content.keys()
    first = content["segments"][0]
    assert first.keys() >= {
        "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob",
        "compression_ratio", "no_speech_prob", "words",
    }  # fmt: skip
    assert (first["id"], first["seek"], first["tokens"]) == (3, 100, [1, 2])
    assert first["words"][1] == {"word": " two", "start": 0.5, "end": 1.0, "probability": 0.5}
    assert "words" not in json.loads(WRITERS["json"](SILENT, None))["segments"][0]


SILENT = Transcription("x", "en", [Segment(0.0, 1.0, "x")], 1.0)
