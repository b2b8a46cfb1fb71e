"""Turns of speech in sound that comes in pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.inputs.audio.voice_activity import FRAME, RATE, VoiceOptions, speech_spans
from antiphon.inputs.audio.voice_turns import Edge, VoiceTurns

PROBABILITIES = st.lists(st.sampled_from([0.1, 0.4, 0.9]), max_size=60)


def edges_of(
    probabilities: list[float], start: int = 0, rate: int = RATE, **options: float
) -> list:
    """Of a stream whose frames have these."""
    turns = VoiceTurns(VoiceOptions(**options), rate, lambda _: np.array(probabilities), start)
    return turns.feed(np.zeros(rate, np.float32))


@given(PROBABILITIES, st.integers(0, 300))
def test_turns_are_sileros_spans_with_their_pauses(frames: list[float], pause_ms: int) -> None:
    edges = edges_of(frames, min_silence_duration_ms=pause_ms)
    assert [edge.speaks for edge in edges] == [i % 2 == 0 for i in range(len(edges))]
    options = VoiceOptions(min_silence_duration_ms=pause_ms - 32, speech_pad_ms=0)
    samples = np.zeros(len(frames) * FRAME, np.float32)
    spans = speech_spans(samples, options, lambda _: np.array(frames))
    assert [edge.sample for edge in edges if edge.speaks] == [start for start, _ in spans]
    ends = [edge.sample for edge in edges if not edge.speaks]
    for end, (_, quiet) in zip(ends, spans, strict=False):
        assert end - quiet >= pause_ms * RATE / 1000
    assert len(spans) - len(ends) in (0, 1)


def test_places_are_in_samples_of_the_stream() -> None:
    found = edges_of([0.1, 0.9, 0.1, 0.1], 1000, 24_000, min_silence_duration_ms=60)
    assert found == [Edge(True, 1000 + 768), Edge(False, 1000 + 4 * 768)]


def test_pieces_of_any_size_are_judged_as_the_whole() -> None:
    from antiphon.inputs.audio.voice_model import VoiceStream, load_voice_model

    model = load_voice_model()
    time = np.arange(3 * RATE) / RATE
    sound = (np.sin(2 * np.pi * 150 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)
    whole = model.probabilities(sound)
    choose = np.random.default_rng(0)
    for largest in (1, 700, 5000):
        stream, parts, place = VoiceStream(model), [], 0
        while place < (len(sound) if largest > 1 else 2 * FRAME):
            size = int(choose.integers(0, largest + 1))
            parts.append(stream.feed(sound[place : place + size]))
            place += size
        judged = np.concatenate(parts)
        assert len(judged) == min(place, len(sound)) // FRAME
        np.testing.assert_allclose(judged, whole[: len(judged)], atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100])
def test_other_rates_lag_behind_by_little(rate: int) -> None:
    lengths: list[int] = []

    def judge(samples: np.ndarray) -> np.ndarray:
        before, after = sum(lengths) // FRAME, (sum(lengths) + len(samples)) // FRAME
        lengths.append(len(samples))
        return np.zeros(after - before)

    turns = VoiceTurns(VoiceOptions(), rate, judge)
    for _ in range(100):
        assert turns.feed(np.zeros(rate // 50, np.float32)) == []
    assert 1.8 * rate < turns.judged <= 2 * rate
