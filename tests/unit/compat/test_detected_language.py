"""Which language a recording is in: the engine's one rule is faster-whisper's."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from antiphon.compat.faster_whisper.languages import detected
from antiphon.config.errors import AudioError

WINDOW = 4  # samples
CODES = ("en", "de", "fr")
Probabilities = dict[str, float]

windows = st.lists(
    st.none()
    | st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.45, 0.55]), min_size=3, max_size=3).map(
        lambda values: dict(
            sorted(zip(CODES, values, strict=True), key=lambda pair: pair[1], reverse=True)
        )
    ),
    max_size=6,
)


class Engine:
    """Hears these probabilities in its windows; None: digital silence. Notes how many it heard."""

    class format:
        multilingual = True

    window = WINDOW

    def __init__(self, each: list[Probabilities | None]) -> None:
        self.each, self.num_heard = each, 0

    def detect_language(self, samples: np.ndarray) -> Probabilities:
        probabilities = self.each[int(samples[0])]
        if probabilities is None:
            raise AudioError("digital silence")
        self.num_heard += 1
        return probabilities


def theirs(
    each: list[Probabilities | None], threshold: float
) -> tuple[str, float, list[tuple[str, float]], int]:
    """As they do it, over windows with sound; and how many were heard."""
    likeliest: dict[str, list[float]] = {}
    heard, everything = 0, list[tuple[str, float]]()
    for probabilities in each:
        if probabilities is None:
            continue
        heard, everything = heard + 1, list(probabilities.items())
        language, probability = everything[0]
        if probability > threshold:
            return language, probability, everything, heard
        likeliest.setdefault(language, []).append(probability)
    if not likeliest:
        return "en", 0.0, [], 0
    votes = Counter({code: len(values) for code, values in likeliest.items()})
    language = votes.most_common(1)[0][0]
    return language, max(likeliest[language]), everything, heard


@given(windows, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(1, 6))
def test_the_rule_is_theirs(each: list[Probabilities | None], threshold: float, count: int) -> None:
    engine: Any = Engine(each)
    samples = np.repeat(np.arange(len(each)), WINDOW)
    *found, heard = theirs(each[:count], threshold)
    assert detected(engine, samples, count, threshold) == tuple(found)
    assert engine.num_heard == heard, "no window is heard in vain"
