"""Where somebody speaks: silero-vad's model on 32 ms frames, and its rules from frames to spans."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RATE = 16_000  # Hz, of the model
FRAME = 512  # samples
SHORTEST_CUT = 98 * RATE // 1000  # samples of a pause where a span that is too long may be cut
Span = tuple[int, int]  # first sample, and the one behind the last


@dataclass(frozen=True)
class VoiceOptions:
    """faster-whisper's names and defaults.

    threshold, neg_threshold: of the probability of speech, where it begins and where it ends.
    neg_threshold None: 0.15 below the other. A pause of min_silence_duration_ms ends a span. Spans
    shorter than min_speech_duration_ms don't count, and those over max_speech_duration_s are cut in
    their longest pause. speech_pad_ms: added at both ends.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration_ms: float = 0.0
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: float = 2000.0
    speech_pad_ms: float = 400.0

    @property
    def end_threshold(self) -> float:
        if self.neg_threshold is not None:
            return self.neg_threshold
        return max(self.threshold - 0.15, 0.01)


@dataclass(frozen=True)
class FoundSpeech(VoiceOptions):
    """Those of a recording in which speech was found before: its `spans`."""

    spans: tuple[Span, ...] = ()


def speech_spans(
    samples: np.ndarray, options: VoiceOptions, model: Callable[[np.ndarray], np.ndarray]
) -> list[Span]:
    """Spans of `samples` [n], at 16 kHz, in which somebody speaks. `model`: from samples to the
    probability of speech in each frame; not asked for speech that was found before."""
    if isinstance(options, FoundSpeech):
        return list(options.spans)
    spans = _spans(model(samples).tolist(), options, len(samples))
    return _padded(spans, round(options.speech_pad_ms * RATE / 1000), len(samples))


def _spans(probabilities: list[float], options: VoiceOptions, num_samples: int) -> list[Span]:
    shortest = options.min_speech_duration_ms * RATE / 1000
    pause = options.min_silence_duration_ms * RATE / 1000
    padding = options.speech_pad_ms * RATE / 1000
    longest = options.max_speech_duration_s * RATE - FRAME - 2 * padding
    spans: list[Span] = []
    start = quiet = -1  # where speech began, and where it may have ended; -1: it did not
    pauses: list[Span] = []  # within the present span
    for number, probability in enumerate(probabilities):
        now = number * FRAME
        if probability >= options.threshold:
            if quiet >= 0 and now - quiet > SHORTEST_CUT:
                pauses.append((quiet, now))
            quiet = -1
            if start < 0:
                start = now
                continue
        if start >= 0 and now - start > longest:
            quiet = -1
            if pauses:
                end, begin = max(pauses, key=lambda span: span[1] - span[0])
                spans.append((start, end))
                start, pauses = begin, []
            else:
                spans.append((start, now))
                start = -1
                continue
        if start >= 0 and probability < options.end_threshold:
            quiet = now if quiet < 0 else quiet
            if now - quiet >= pause:
                if quiet - start > shortest:
                    spans.append((start, quiet))
                start, quiet, pauses = -1, -1, []
    if start >= 0 and num_samples - start > shortest:
        spans.append((start, num_samples))
    return spans


def _padded(spans: list[Span], padding: int, num_samples: int) -> list[Span]:
    """With `padding` at both ends; neighbors that are too near share what is between them."""
    padded: list[Span] = []
    for index, (start, end) in enumerate(spans):
        before = padding if not index else min(padding, (start - spans[index - 1][1]) // 2)
        is_last = index == len(spans) - 1
        behind = padding if is_last else min(padding, (spans[index + 1][0] - end) // 2)
        padded.append((max(0, start - before), min(num_samples, end + behind)))
    return padded
