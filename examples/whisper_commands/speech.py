"""Training speech of the small Whisper: synthesized in many processes, noisy, through codecs."""

import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import corpus
import numpy as np
from checkpoint import RATE
from codec import noisy_speech, through_random_codec
from scipy.signal import resample_poly

UP, DOWN = 320, 441  # 22,050 Hz to 16 kHz


def synthesize_at_rate(coded: float, spoken: corpus.Utterance) -> corpus.Speech:
    """Samples int16 at RATE. A share of `coded` has noise and went through a lossy codec."""
    speech = corpus.synthesize(spoken)
    samples = resample_poly(speech.samples, UP, DOWN)
    speech = speech.processed(samples / np.abs(samples).max() * 0.7, UP / DOWN, 0)
    rng = random.Random(repr(spoken))
    if rng.random() < coded:
        speech = noisy_speech(speech, RATE, rng, 8, 45)
        speech = speech.processed(through_random_codec(speech.samples, RATE, rng), 1, 0)
    clipped = (np.clip(speech.samples, -1, 1) * 32767).astype(np.int16)
    return speech.processed(clipped, 1, 0)


def synthesize_all(
    spoken: list[corpus.Utterance], coded: float, processes: int | None = None
) -> list[corpus.Speech]:
    """In order."""
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(partial(synthesize_at_rate, coded), spoken, chunksize=64))
