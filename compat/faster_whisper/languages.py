"""Which language a recording is in, by faster-whisper's rule."""

from collections.abc import Iterator

import numpy as np

from antiphon.compat.faster_whisper.engine import SpeechEngine
from antiphon.config.errors import AudioError
from antiphon.engine.transcribing.languages import of_most

Detected = tuple[str, float, list[tuple[str, float]]]  # code, probability, all of them


def detected(engine: SpeechEngine, samples: np.ndarray, windows: int, threshold: float) -> Detected:
    """The language of the first `windows` windows by the rule of `of_most`, and the probabilities
    in the last one that was heard.

    English, with probability 0, for a recording in which nothing is heard.
    """
    if not engine.format.multilingual:
        return "en", 1.0, [("en", 1.0)]
    heard: list[dict[str, float]] = []
    spoken = of_most(_by_window(engine, samples, windows, heard), threshold)
    if spoken.language is None:
        return "en", 0.0, []
    return spoken.language, spoken.probability or 0.0, list(heard[-1].items())


def _by_window(
    engine: SpeechEngine, samples: np.ndarray, windows: int, heard: list[dict[str, float]]
) -> Iterator[dict[str, float]]:
    """Those of each window with sound; they are added to `heard` too."""
    window = engine.window
    for start in range(0, min(len(samples), windows * window), window):
        try:
            heard.append(engine.detect_language(samples[start : start + window]))
        except AudioError:  # digital silence
            continue
        yield heard[-1]
