"""Which language a recording is in, by faster-whisper's rule."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from antiphon.compat.faster_whisper.engine import SpeechEngine
from antiphon.config.errors import AudioError

Detected = tuple[str, float, list[tuple[str, float]]]  # code, probability, all of them


def detected(engine: SpeechEngine, samples: np.ndarray, windows: int, threshold: float) -> Detected:
    """The language of the first of `windows` windows where one is likelier than `threshold`; else
    the one that is likeliest in most of them.

    English, with probability 0, for a recording in which nothing is heard.
    """
    if not engine.format.multilingual:
        return "en", 1.0, [("en", 1.0)]
    likeliest: list[tuple[str, float]] = []
    everything: list[tuple[str, float]] = []
    for probabilities in _by_window(engine, samples, windows):
        everything = list(probabilities.items())
        likeliest.append(everything[0])
        if everything[0][1] > threshold:
            return *everything[0], everything
    if not likeliest:
        return "en", 0.0, []
    ((language, _),) = Counter(code for code, _ in likeliest).most_common(1)
    return language, max(value for code, value in likeliest if code == language), everything


def _by_window(
    engine: SpeechEngine, samples: np.ndarray, windows: int
) -> Iterator[dict[str, float]]:
    window = engine.window
    for start in range(0, min(len(samples), windows * window), window):
        try:
            yield engine.detect_language(samples[start : start + window])
        except AudioError:  # digital silence
            continue
