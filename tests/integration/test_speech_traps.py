"""What makes Whisper invent, repeat or lose words: nobody speaks, music, and cuts where somebody
does. With published tiny.en and recorded speech, at transcribe()'s own settings."""

from typing import Any

import numpy as np
import pytest
import real_weights
from transcribing_engine import TranscribingEngine

from antiphon import SamplingParams
from antiphon.engine.outputs import Transcription
from antiphon.inputs.audio.forms import load_audio

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RATE = 16_000
SPOKEN = "sense_and_sensibility_01_austen_64kb-0920.wav"
SAID = (
    "Had he married a more amiable woman, he might have been made still more respectable "
    "than he was."
)
MODES: list[dict[str, Any]] = [{}, {"mode": "sequential"}, {"vad_filter": True}]
CHORDS = (220, 277.2, 329.6), (246.9, 311.1, 370), (196, 246.9, 293.7), (174.6, 220, 261.6)


@pytest.fixture(scope="module")
def engine() -> TranscribingEngine:
    return TranscribingEngine(real_weights.model("tiny.en"))


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    return load_audio(real_weights.speech() / SPOKEN, RATE)


def noise(seconds: float, loudness: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (loudness * generator.standard_normal(int(seconds * RATE))).astype(np.float32)


def music(seconds: int) -> np.ndarray:
    """A struck chord each second, with overtones."""
    time = np.arange(RATE) / RATE
    bars = [
        sum(
            np.sin(2 * np.pi * tone * overtone * time) / overtone
            for tone in CHORDS[second % len(CHORDS)]
            for overtone in (1, 2, 3)
        )
        * np.exp(-2 * time)
        for second in range(seconds)
    ]
    return (0.1 * np.concatenate(bars)).astype(np.float32)


def transcribed(engine: TranscribingEngine, sound: np.ndarray, mode: Any) -> Transcription:
    """Temperatures above 0 draw the same samples each time."""
    return engine.transcribe(sound, params=SamplingParams(seed=0), **mode)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("sound", [noise(20, 1e-3), music(20)], ids=["noise", "music"])
def test_where_nobody_speaks_nothing_is_heard(
    engine: TranscribingEngine, sound: np.ndarray, mode: Any
) -> None:
    result = transcribed(engine, sound, mode)
    assert (result.text, result.segments) == ("", [])
    assert result.duration == 20


@pytest.mark.parametrize("mode", MODES[1:], ids=str)
def test_music_between_sentences_neither_hides_nor_repeats_them(
    engine: TranscribingEngine, spoken: np.ndarray, mode: Any
) -> None:
    """In batches without voice activity detection, as in faster-whisper's, what a window is not
    read to its end is lost."""
    sound = np.concatenate([spoken, music(15), spoken])
    result = transcribed(engine, sound, mode)
    assert [segment.text for segment in result.segments] == [SAID, SAID]
    assert result.segments[1].end == pytest.approx(len(sound) / RATE, abs=0.5)


def test_a_long_pause_is_not_filled_with_words(
    engine: TranscribingEngine, spoken: np.ndarray
) -> None:
    sound = np.concatenate([spoken, noise(40, 1e-4), spoken])
    result = transcribed(engine, sound, {"vad_filter": True})
    assert result.text == f"{SAID} {SAID}"
    first, second = result.segments[0], result.segments[-1]
    assert first.start < 1
    assert second.end == pytest.approx(len(sound) / RATE, abs=0.5)
