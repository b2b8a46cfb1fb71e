"""Speech as it arrives in practice: with noise, and through a lossy codec."""

import io
import random
from pathlib import Path

import av
import numpy as np
from corpus import Speech

AAC_DELAY = 1024  # samples; bare AAC does not tell it, so that a decoder cannot take it away
LOSSY = {"libopus": "ogg", "mp3": "mp3", "aac": "adts"}  # codec -> container


def encode(
    samples: np.ndarray,
    rate: int,
    file: str | Path | io.BytesIO,
    codec: str,
    container: str | None = None,
    bit_rate: int = 24_000,
) -> None:
    """Writes mono samples [n] in [-1, 1] at `rate` Hz. Opus is written at 48 kHz."""
    coded_rate = 48_000 if codec == "libopus" else rate
    with av.open(file if isinstance(file, io.BytesIO) else str(file), "w", format=container) as out:
        stream = out.add_stream(codec, rate=coded_rate, layout="mono")
        if codec in LOSSY:
            stream.bit_rate = bit_rate
        source = av.AudioFrame.from_ndarray(
            (samples[None] * 32767).astype(np.int16), format="s16", layout="mono"
        )
        source.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format,
            layout="mono",
            rate=coded_rate,
            frame_size=stream.codec_context.frame_size or 0,
        )
        for frame in [*resampler.resample(source), *resampler.resample(None)]:
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def decode(file: io.BytesIO, rate: int) -> np.ndarray:
    """Mono float32 samples [n] at `rate` Hz."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    with av.open(file) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def lead_in(rate: int, rng: random.Random) -> int:
    """Samples of silence before speech. `noisy` draws them first."""
    return int(rate * rng.uniform(0.1, 0.6))


def noisy(
    samples: np.ndarray, rate: int, rng: random.Random, quietest: float = 15, loudest: float = 40
) -> np.ndarray:
    """Adds `lead_in` of silence before and 0.3 s behind, a random loudness, and white noise.

    The noise is `quietest` to `loudest` dB below the speech.
    """
    padded = np.concatenate([np.zeros(lead_in(rate, rng)), samples, np.zeros(int(rate * 0.3))])
    level = np.sqrt((samples**2).mean()) * 10 ** (-rng.uniform(quietest, loudest) / 20)
    noise = np.random.default_rng(rng.randrange(2**32)).standard_normal(len(padded)) * level
    return np.clip((padded + noise) * rng.uniform(0.3, 0.9), -1, 1)


def noisy_speech(
    speech: Speech, rate: int, rng: random.Random, quietest: float = 15, loudest: float = 40
) -> Speech:
    """`noisy`, with where the words are then."""
    state = rng.getstate()
    delay = lead_in(rate, rng)
    rng.setstate(state)
    return speech.processed(noisy(speech.samples, rate, rng, quietest, loudest), 1, delay)


def through_random_codec(samples: np.ndarray, rate: int, rng: random.Random) -> np.ndarray:
    """The samples after a random lossy codec at a random bit rate, at the same rate."""
    codec = rng.choice(["libopus", "libopus", "libopus", "mp3", "aac"])
    buffer = io.BytesIO()
    lowest = 12_000 if codec == "libopus" else 32_000
    encode(samples, rate, buffer, codec, LOSSY[codec], rng.randrange(lowest, 72_000, 4_000))
    buffer.seek(0)
    delay = AAC_DELAY if codec == "aac" else 0
    return decode(buffer, rate)[delay:]
