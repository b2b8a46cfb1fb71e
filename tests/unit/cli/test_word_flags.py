"""Flags of `antiphon transcribe` for words in subtitles."""

from pathlib import Path

import pytest
from paths import RECORDINGS, WHISPER
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.cli.output import Output, OutputFlags
from antiphon.cli.recordings import Recording
from antiphon.config.errors import ConfigurationError
from antiphon.engine.outputs import Segment, Transcription, Word

WORDS = (Word(0.0, 0.5, " one"), Word(0.5, 1.0, " two"))
RESULT = Transcription("one two", "en", [Segment(0.0, 1.0, "one two", words=WORDS)], 1.0)


@pytest.mark.parametrize(
    "flags",
    [["--highlight-words"], ["--max-line-width", "20"], ["--max-words-per-line", "3"],
     ["--max_line_count", "2"]],
)  # fmt: skip
def test_they_need_words(flags: list[str]) -> None:
    command = ["transcribe", str(RECORDINGS / "call.wav"), "-m", str(WHISPER), "-q"]
    result = CliRunner().invoke(app, [*command, *flags])
    assert isinstance(result.exception, ConfigurationError)
    assert "add --word-timestamps" in str(result.exception)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_line_width=0 must be at least 1"):
        Output.of(OutputFlags(output_format="srt", max_line_width=0))


def test_results_follow_them() -> None:
    recording = Recording("a.wav", Path("a"))
    flags = OutputFlags(output_format="srt", max_words_per_line=1)
    text = Output.of(flags).text(recording, RESULT, several=False)
    assert text == "1\n00:00:00,000 --> 00:00:00,500\none\n\n2\n00:00:00,500 --> 00:00:01,000\ntwo"


def test_json_lines_have_words() -> None:
    recording = Recording("a.wav", Path("a"))
    text = Output.of(OutputFlags(as_json=True)).text(recording, RESULT, several=False)
    assert '"words": [{"word": " one", "start": 0.0' in text
