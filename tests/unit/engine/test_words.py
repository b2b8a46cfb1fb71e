"""Words of whole recordings: their times and texts, whatever way they were decoded."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transcribing_engine import TranscribingEngine

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions
from antiphon.engine.outputs import CompletionOutput, Segment, Transcription, Word
from antiphon.engine.transcribing.words import _heard, within_text
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.processor import InputProcessor

NAME = "long.opus"


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> TranscribingEngine:
    return TranscribingEngine(whisper_folder)


@pytest.fixture(scope="module")
def recording(whisper_folder: Path) -> Path:
    return whisper_folder.parent / "recordings" / NAME


@pytest.fixture(scope="module")
def result(engine: TranscribingEngine, recording: Path) -> Transcription:
    return engine.transcribe(recording, chunk_seconds=3.0, word_timestamps=True)


def words_of(result: Transcription) -> list[Word]:
    return [word for segment in result.segments for word in segment.words or ()]


def check(result: Transcription) -> None:
    words = words_of(result)
    assert "".join(word.text for word in words).split() == result.text.split()
    for word, following in pairwise(words):
        assert word.start <= word.end <= following.start + 1e-9
    assert words[0].start >= 0
    assert words[-1].end <= result.duration
    assert all(word.probability is not None and 0 < word.probability <= 1 for word in words)


def test_words_are_the_text_in_order(result: Transcription, recording: Path) -> None:
    expected = json.loads((recording.parent / "expected.json").read_text())
    assert result.text == expected[NAME]
    assert len(result.segments) > 2, "one window proves nothing about times of the recording"
    check(result)
    assert [word.text.strip() for word in words_of(result)] == result.text.split()
    # No head of this small model was named or trained to follow the sound.
    assert sum(word.end > word.start for word in words_of(result)) > 0.5 * len(words_of(result))


def test_segments_begin_and_end_with_their_words(result: Transcription) -> None:
    for segment in result.segments:
        assert segment.words
        assert "".join(word.text for word in segment.words).strip() == segment.text
        assert segment.start <= segment.words[0].end
        assert segment.words[-1].start <= segment.end


@pytest.mark.parametrize("options", [{"timestamps": False}, {"mode": "sequential"}])
def test_other_ways_to_the_same_words(
    engine: TranscribingEngine, recording: Path, options: dict[str, Any]
) -> None:
    other = engine.transcribe(recording, chunk_seconds=3.0, word_timestamps=True, **options)
    check(other)


def test_no_words_unless_asked(engine: TranscribingEngine, recording: Path) -> None:
    result = engine.transcribe(recording, chunk_seconds=3.0)
    assert all(segment.words is None for segment in result.segments)
    assert all(
        options.get("alignment") is None for options in engine.asked[-len(result.segments) :]
    )


def test_punctuation_marks_of_the_caller(
    engine: TranscribingEngine, recording: Path, result: Transcription
) -> None:
    other = engine.transcribe(
        recording, chunk_seconds=3.0, word_timestamps=True, append_punctuations=""
    )
    check(other)
    assert len(words_of(other)) >= len(words_of(result))


class ForgetfulEngine(TranscribingEngine):
    """Knows nothing of when generated tokens were said, like a beam search."""

    async def result(self, request: Any) -> CompletionOutput:
        output = await super().result(request)
        return output if request.max_tokens == 1 else replace(output, token_frames=None)


def test_text_is_aligned_behind_its_prompt_where_it_was_not_before(
    engine: TranscribingEngine, recording: Path, whisper_folder: Path
) -> None:
    forgetful = ForgetfulEngine(whisper_folder)
    options: dict[str, Any] = {"chunk_seconds": 3.0, "word_timestamps": True, "timestamps": False}
    result = forgetful.transcribe(recording, **options)
    check(result)
    direct = words_of(engine.transcribe(recording, **options))
    # The same queries of the same tokens: not all heads' means, for the end is one row more.
    pairs = list(zip(words_of(result), direct, strict=True))
    assert [one.text for one, _ in pairs] == [other.text for _, other in pairs]
    assert all(abs(one.start - other.start) < 0.05 for one, other in pairs)
    assert all(abs(one.end - other.end) < 0.05 for one, other in pairs)


def test_engines_without_word_times_refuse_at_once(whisper_folder: Path) -> None:
    model = ModelConfig.load(ModelOptions(str(whisper_folder)))
    inputs = InputProcessor(model, has_words=False)
    inputs.check_transcription()
    with pytest.raises(ConfigurationError, match="enable_word_timestamps=False"):
        inputs.check_transcription(word_timestamps=True)


def test_words_are_plain_values() -> None:
    word = Word(0.5, 1.0, " one", 0.9)
    assert Segment(0.5, 1.0, "one", words=(word,)).words == (word,)


def test_words_end_where_a_stop_string_has_cut_the_text() -> None:
    words = tuple(Word(i, i + 1, text, 1.0) for i, text in enumerate((" call", " seven", " nine")))
    for text, last in (("call seven nine", " nine"), ("call seven", " seven"), ("call s", " s")):
        kept = within_text(words, text)
        assert "".join(word.text for word in kept).strip() == text
        assert kept[-1].text == last
    assert within_text(words, "") == ()


def test_a_rest_that_is_shorter_than_a_frame_is_not_heard_for_ever(
    engine: TranscribingEngine, recording: Path
) -> None:
    """In turn, the next window begins where the last word ended: less than a frame may be left."""
    result = engine.transcribe(recording, word_timestamps=True, mode="sequential")
    assert result.segments[-1].end <= result.duration


@pytest.mark.parametrize("seconds", [0.6, 1.0])
def test_words_that_are_not_told_leave_a_segment_its_own_times(
    engine: TranscribingEngine, recording: Path, seconds: float
) -> None:
    """Behind silence this small model attends to the window's start, whatever it writes."""
    call = read_sound(recording.with_name("call.wav"), 16_000).samples
    late = np.concatenate([np.zeros(int(seconds * 16_000), np.float32), call])
    (segment,) = engine.transcribe(late, word_timestamps=True).segments
    assert segment.text == "call seven nine zero"
    assert segment.end - segment.start > 1.0


@pytest.mark.parametrize(
    ("samples", "heard"),
    [([], 0), ([0, 0], 0), ([1, 2], 2), ([0, 3, 0, 0], 2), ([5, -0.0], 1), ([1, np.nan], 2)],
)
def test_what_is_heard_ends_with_the_last_sample_of_sound(samples: list[float], heard: int) -> None:
    assert _heard(np.array(samples, np.float32)) == heard
