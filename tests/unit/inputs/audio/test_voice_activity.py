"""Voice activity: silero-vad's spans from probabilities, and its model's probabilities of sound."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import RECORDINGS

from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.audio.voice_activity import FRAME, RATE, Span, VoiceOptions, speech_spans


def spans_of(probabilities: list[float], missing: int = 0, **options: Any) -> list[Span]:
    samples = np.zeros(len(probabilities) * FRAME - missing, np.float32)
    return speech_spans(samples, VoiceOptions(**options), lambda _: np.array(probabilities))


PADLESS = {"speech_pad_ms": 0.0}


@pytest.mark.parametrize(
    ("probabilities", "options", "frames"),
    [
        ([0.1] * 5, PADLESS, []),
        ([0.1, 0.9, 0.9, 0.1, 0.1, 0.1], PADLESS | {"min_silence_duration_ms": 60}, [(1, 3)]),
        # Between the thresholds, speech goes on but does not begin.
        ([0.4, 0.9, 0.4, 0.4, 0.1, 0.1, 0.1], PADLESS | {"min_silence_duration_ms": 60}, [(1, 4)]),
        ([0.4, 0.9, 0.4, 0.2, 0.2, 0.2], PADLESS | {
            "min_silence_duration_ms": 60, "neg_threshold": 0.1}, [(1, 6)]),
        # A pause that is too short to end a span.
        ([0.9, 0.1, 0.9, 0.1, 0.1, 0.1], PADLESS | {"min_silence_duration_ms": 60}, [(0, 3)]),
        ([0.9, 0.1, 0.1, 0.1, 0.9], PADLESS | {
            "min_silence_duration_ms": 60, "min_speech_duration_ms": 40}, []),
        # Too long: cut in its longest pause; without any, where the limit is.
        ([0.9] * 5 + [0.1] * 5 + [0.9] * 5 + [0.1] * 8 + [0.9] * 20, PADLESS | {
            "max_speech_duration_s": 30 * FRAME / RATE}, [(0, 15), (23, 43)]),
        ([0.9] * 20, PADLESS | {"max_speech_duration_s": 10 * FRAME / RATE}, [(0, 10), (11, 20)]),
    ],
)  # fmt: skip
def test_spans_equal_sileros(
    probabilities: list[float], options: dict[str, Any], frames: list[Span]
) -> None:
    assert spans_of(probabilities, **options) == [(a * FRAME, b * FRAME) for a, b in frames]


def test_padding_stays_within_the_recording_and_neighbors_share() -> None:
    near = [0.9, 0.1, 0.1, 0.9, 0.9]
    found = spans_of(near, missing=100, min_silence_duration_ms=30, speech_pad_ms=1000)
    assert found == [(0, 2 * FRAME), (2 * FRAME, 5 * FRAME - 100)]
    far = [0.1] * 10 + [0.9] + [0.1] * 10
    (span,) = spans_of(far, min_silence_duration_ms=60, speech_pad_ms=32)
    assert span == (9 * FRAME, 12 * FRAME)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05, 70.0])
def test_silence_and_noise_of_any_length_hold_no_speech(seconds: float) -> None:
    from antiphon.inputs.audio.voice_model import load_voice_model

    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    probabilities = load_voice_model().probabilities(noise * 0.001)
    assert len(probabilities) == math.ceil(len(noise) / FRAME)
    assert (probabilities < 0.5).all()


def test_probabilities_are_those_of_sileros_own_network() -> None:
    """Which hears frame after frame."""
    from antiphon.inputs.audio.voice_model import load_voice_model

    sound = load_audio(RECORDINGS / "call.wav", RATE)
    package = importlib.util.find_spec("silero_vad")
    assert package is not None
    file = Path(str(package.origin)).with_name("data") / "silero_vad.jit"
    network = torch.jit.load(file, map_location="cpu")
    expected = [
        network(frame[None], RATE).item()
        for frame in torch.from_numpy(sound).split(FRAME)
        if len(frame) == FRAME
    ]
    probabilities = load_voice_model().probabilities(sound)[: len(expected)]
    assert max(expected) > 0.9
    assert min(expected) < 0.1
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_the_network_leaves_torchs_threads_as_they_are() -> None:
    from antiphon.inputs.audio.voice_model import load_voice_model

    before = torch.get_num_threads()
    load_voice_model().probabilities(np.zeros(2 * RATE, np.float32))
    assert torch.get_num_threads() == before


def test_batches_of_frames_do_not_change_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon.inputs.audio import voice_model

    model = voice_model.load_voice_model()
    time = np.arange(3 * RATE) / RATE
    sound = (np.sin(2 * np.pi * 150 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)
    whole = model.probabilities(sound)
    monkeypatch.setattr(voice_model, "BATCH", 7)
    np.testing.assert_allclose(model.probabilities(sound), whole, atol=1e-5)
