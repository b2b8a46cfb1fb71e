"""Long recordings with the shipped model: one window after another as transformers goes through
them, voice activity, and sound that is hard to hear."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transcribing_engine import TranscribingEngine
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from antiphon.engine.outputs import Transcription
from antiphon.inputs.audio.cuts import cut_at_quiet
from antiphon.inputs.audio.forms import load_audio

pytestmark = pytest.mark.slow
RATE = 16_000


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> TranscribingEngine:
    return TranscribingEngine(whisper_folder)


@pytest.fixture(scope="module")
def recordings(whisper_folder: Path) -> dict[str, np.ndarray]:
    folder = whisper_folder.parent / "recordings"
    names = ("long.opus", "call.wav", "light.flac", "wecker.wav")
    return {name: load_audio(folder / name, RATE) for name in names}


def texts(result: Transcription) -> list[str]:
    return [segment.text for segment in result.segments]


def tune(seconds: float) -> np.ndarray:
    """Chords of plucked strings, two a second."""
    chords = ((220.0, 277.2, 329.6), (246.9, 311.1, 370.0), (196.0, 246.9, 293.7))
    times = np.arange(RATE // 2) / RATE
    struck = [
        sum(
            np.sin(2 * np.pi * note * harmonic * times) / harmonic
            for note in chord
            for harmonic in (1, 2, 3)
        )
        * np.exp(-3 * times)
        for chord in chords
    ]
    whole = np.concatenate(struck * (int(seconds * 2) // len(chords) + 1))
    return (0.1 * whole[: int(seconds * RATE)]).astype(np.float32)


def trap(name: str, recordings: dict[str, np.ndarray]) -> np.ndarray:
    """Sound that goes on for longer than a window."""
    call, light = recordings["call.wav"], recordings["light.flac"]
    if name == "a phrase again and again":
        return np.concatenate([call, np.zeros(RATE // 5, np.float32)] * 6)
    if name == "music around speech":
        return np.concatenate([tune(4), call, tune(4)])
    if name == "cut amid words":  # in "seven", and in what follows "turn on"
        return np.concatenate([call[: RATE * 9 // 10], light[RATE // 2 :]] * 4)
    return recordings["long.opus"]


@pytest.mark.parametrize(
    ("name", "conditioned"),
    [
        ("long.opus", True), ("long.opus", False), ("a phrase again and again", True),
        ("music around speech", False), ("cut amid words", False),
    ],
)  # fmt: skip
def test_windows_in_turn_give_transformers_segments(
    engine: TranscribingEngine,
    recordings: dict[str, np.ndarray],
    whisper_folder: Path,
    name: str,
    conditioned: bool,
) -> None:
    sound = trap(name, recordings)
    oracle = WhisperForConditionalGeneration.from_pretrained(whisper_folder).float().eval()
    features = WhisperFeatureExtractor.from_pretrained(whisper_folder)(
        sound, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    wanted = oracle.generate(
        features.input_features, attention_mask=features.attention_mask, return_timestamps=True,
        language="en", task="transcribe", condition_on_prev_tokens=conditioned,
        temperature=(0.0,), return_segments=True, compression_ratio_threshold=2.4,
        logprob_threshold=-1.0, no_speech_threshold=0.6,
    )["segments"][0]  # fmt: skip
    said = [engine.inputs.decode(segment["tokens"].tolist()).strip() for segment in wanted]
    result = engine.transcribe(
        sound, language="en", mode="sequential", condition_on_previous_text=conditioned,
        temperature=0,
    )  # fmt: skip
    assert texts(result) == [text for text in said if text]
    # In the last window, transformers has zeros of the spectrogram where silence is behind the end.
    for segment, other in zip(result.segments[:-2], wanted, strict=False):
        assert segment.start == pytest.approx(float(other["start"]))
        assert segment.end == pytest.approx(float(other["end"]))


@pytest.mark.parametrize("prompt", ["call seven", "set a timer for six minutes"])
def test_prompts_give_transformers_text(
    engine: TranscribingEngine, recordings: dict[str, np.ndarray], whisper_folder: Path, prompt: str
) -> None:
    oracle = WhisperForConditionalGeneration.from_pretrained(whisper_folder).float().eval()
    features = WhisperFeatureExtractor.from_pretrained(whisper_folder)(
        recordings["call.wav"], sampling_rate=RATE, return_tensors="pt"
    ).input_features
    ids = engine.inputs.tokenizer(f" {prompt}", add_special_tokens=False).input_ids
    whisper = engine.inputs.whisper
    assert whisper is not None
    wanted = oracle.generate(
        features, prompt_ids=torch.tensor([whisper.previous_id, *ids]), language="en",
        task="transcribe",
    )  # fmt: skip
    result = engine.transcribe(
        recordings["call.wav"], language="en", initial_prompt=prompt, timestamps=False,
        temperature=0,
    )  # fmt: skip
    assert result.text == engine.inputs.decode(wanted[0].tolist()).strip() != ""


def test_pauses_are_left_out_and_times_stay(
    engine: TranscribingEngine, recordings: dict[str, np.ndarray]
) -> None:
    call, light = recordings["call.wav"], recordings["light.flac"]
    pause = np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32) * 1e-4
    sound = np.concatenate([call, pause, light, pause, call])
    engine.asked.clear()
    result = engine.transcribe(sound, language="en", vad_filter=True)
    assert len(engine.asked) <= 2, "the three share windows"
    said = [engine.transcribe(each, language="en").text for each in (call, light, call)]
    assert result.text == " ".join(said)
    begins = (0.0, len(call) / RATE + 20, (len(call) + len(light)) / RATE + 40)
    ends = (len(call), len(light), len(call))
    for segment, begin, end in zip(result.segments, begins, ends, strict=True):
        assert begin - 0.5 <= segment.start < segment.end <= begin + end / RATE + 0.5
    assert result.duration_after_vad is not None
    assert result.duration_after_vad < result.duration - 30
    assert {span.reason for span in result.skipped} == {"no speech"}
    first, second = (span for span in result.skipped if span.end - span.start > 10)
    assert len(call) / RATE - 0.5 < first.start < first.end < begins[1] + 0.5
    assert (len(call) + len(light)) / RATE + 19.5 < second.start < second.end < begins[2] + 0.5


@pytest.mark.parametrize("options", [{}, {"mode": "sequential"}, {"vad_filter": True}])
@pytest.mark.parametrize("sound", ["quiet", "clipped", "short"])
def test_sound_that_is_hard_to_hear(
    engine: TranscribingEngine, recordings: dict[str, np.ndarray], options: Any, sound: str
) -> None:
    call = recordings["call.wav"]
    samples = {
        "quiet": call * 0.03,
        "clipped": np.clip(call * 5, -1, 1),
        "short": call[8000:8800],  # 0.05 s
    }[sound]
    result = engine.transcribe(samples, language="en", **options)
    assert result.duration == pytest.approx(len(samples) / RATE)
    if sound in ("quiet", "clipped"):
        assert result.text == "call seven nine zero"
    for segment in result.segments:
        assert 0 <= segment.start <= segment.end <= result.duration


@pytest.mark.parametrize("options", [{}, {"mode": "sequential"}, {"vad_filter": True}])
def test_a_phrase_is_heard_as_often_as_it_was_said(
    engine: TranscribingEngine, recordings: dict[str, np.ndarray], options: Any
) -> None:
    result = engine.transcribe(
        trap("a phrase again and again", recordings), language="en", **options
    )
    assert result.text == " ".join(["call seven nine zero"] * 6)


def test_two_languages_in_one_recording(
    engine: TranscribingEngine, recordings: dict[str, np.ndarray]
) -> None:
    english, german = recordings["call.wav"], recordings["wecker.wav"]
    sound = np.concatenate([english, german])
    clips = [0, len(english) / RATE, len(english) / RATE, len(sound) / RATE]
    result = engine.transcribe(sound, multilingual=True, clip_timestamps=clips)
    assert {segment.language for segment in result.segments} == {"en", "de"}
    assert result.text == " ".join(engine.transcribe(each).text for each in (english, german))


def test_ten_minutes_in_every_mode(
    engine: TranscribingEngine, recordings: dict[str, np.ndarray]
) -> None:
    call = recordings["call.wav"]
    pause = np.zeros(6 * RATE - len(call), np.float32)
    sound = np.concatenate([call, pause] * 100)
    # With earlier text, this small model hears of a hundred equal sentences every second alone.
    in_turn = {"mode": "sequential", "condition_on_previous_text": False}
    for options in ({}, {"vad_filter": True}, in_turn):
        result = engine.transcribe(sound, language="en", **options)
        count = result.text.count("call seven nine zero")
        assert 90 <= count <= 100, (options, count)
        starts = [segment.start for segment in result.segments]
        assert starts == sorted(starts)


def without_pauses(samples: np.ndarray) -> np.ndarray:
    """What is louder than 3 % of the mean power, and 40 ms around it."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    powers = (frames**2).mean(1)
    loud = np.convolve(powers > 0.03 * powers.mean(), np.ones(5), "same") > 0
    return frames[loud].reshape(-1)


@pytest.mark.parametrize("options", [{}, {"timestamps": False}, {"word_timestamps": True}])
def test_windows_without_a_pause_between_them_lose_and_double_no_word(
    engine: TranscribingEngine, recordings: dict[str, np.ndarray], options: Any
) -> None:
    """Each word of two recordings, said without a pause, is in the text as often as it was said."""
    parts = [without_pauses(recordings[name]) for name in ("call.wav", "light.flac")]
    said = ["call seven nine zero", "turn on the radio in the office"]
    loud = [part / np.sqrt((part**2).mean()) * 0.05 for part in parts]
    sound = np.concatenate(loud * 6).astype(np.float32)
    sound += np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32) * 0.005
    assert engine.inputs.audio is not None
    longest = engine.inputs.audio.window
    spans = cut_at_quiet(sound, longest, RATE, overlaps=True)
    assert len(spans) > 2
    assert all(first[1] > second[0] for first, second in pairwise(spans)), "no cut at a pause"
    result = engine.transcribe(sound, language="en", temperature=0, **options)
    assert result.text == " ".join(said * 6)
    starts = [segment.start for segment in result.segments]
    assert starts == sorted(starts)
