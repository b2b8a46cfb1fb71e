"""Published tiny.en and base on recorded speech, by faster-whisper's interface, beside what
faster-whisper heard there (`record_faster_whisper.py`)."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import real_weights
from paths import FAKES

from antiphon.compat.faster_whisper import Segment, WhisperModel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEARD: dict[str, Any] = json.loads((FAKES / "faster_whisper_heard.json").read_text())
SETTINGS = {"greedy": 1, "beams": 5}


@pytest.fixture(scope="module", params=["tiny.en", "base"])
def model(request: pytest.FixtureRequest) -> Iterator[tuple[str, WhisperModel]]:
    folder = str(real_weights.ctranslate2(request.param))
    with WhisperModel(folder, device="cpu", compute_type="float32") as model:
        yield request.param, model


@pytest.fixture(scope="module", params=SETTINGS)
def pairs(
    request: pytest.FixtureRequest, model: tuple[str, WhisperModel]
) -> list[tuple[list[Segment], list[dict[str, Any]]]]:
    """Of each recording: our segments and theirs."""
    name, own = model

    def ours(file: str) -> list[Segment]:
        segments, _ = own.transcribe(
            str(real_weights.speech() / file), language="en", word_timestamps=True,
            temperature=0.0, beam_size=SETTINGS[request.param],
        )  # fmt: skip
        return list(segments)

    return [(ours(file), theirs) for file, theirs in HEARD[name][request.param].items()]


def test_texts_and_averages_are_theirs(pairs: Any) -> None:
    for ours, theirs in pairs:
        assert [one.text for one in ours] == [one["text"] for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.avg_logprob == pytest.approx(other["avg_logprob"], abs=0.02)


def test_words_begin_and_end_when_theirs_do(pairs: Any) -> None:
    """Within 0.1 s, for 95 % of them."""
    ours = [word for segments, _ in pairs for one in segments for word in one.words or ()]
    theirs = [word for _, segments in pairs for one in segments for word in one["words"]]
    assert [word.word for word in ours] == [text for text, _, _ in theirs]
    times = np.array([[word.start, word.end] for word in ours])
    far = np.abs(times - np.array([word[1:] for word in theirs])) > 0.1001
    assert (far.mean(0) <= 0.05).all()
