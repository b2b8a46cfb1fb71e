"""A rising tone in audio files of many codecs and containers."""

import io
from functools import cache

import numpy as np
import pytest

from antiphon.inputs.audio.sound import Sound

av = pytest.importorskip("av")  # a GPU machine may lack it

RATE = 16_000
SECONDS = 4.0
# codec, container, rate, the muxer's options
DECLARING: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "wav": ("pcm_s16le", "wav", 16_000, {}),
    "wav-8k": ("pcm_mulaw", "wav", 8_000, {}),
    "wav-s24": ("pcm_s24le", "wav", 44_100, {}),
    "wav-f32": ("pcm_f32le", "wav", 16_000, {}),
    "wav-f64": ("pcm_f64le", "wav", 16_000, {}),
    "wav-adpcm": ("adpcm_ima_wav", "wav", 16_000, {}),
    "rf64": ("pcm_s16le", "wav", 16_000, {"rf64": "always"}),
    "w64": ("pcm_s16le", "w64", 16_000, {}),
    "au": ("pcm_s16be", "au", 16_000, {}),
    "au-f32": ("pcm_f32be", "au", 48_000, {}),
    "caf": ("pcm_s16le", "caf", 16_000, {}),
    "aiff": ("pcm_s16be", "aiff", 22_050, {}),
    "flac": ("flac", "flac", 44_100, {}),
    "tta": ("tta", "tta", 44_100, {}),
    "wv": ("wavpack", "wv", 44_100, {}),
    "mp3": ("mp3", "mp3", 44_100, {}),
    "mp3-16k": ("mp3", "mp3", 16_000, {}),
}
UNDECLARING: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "mp3-without": ("mp3", "mp3", 44_100, {"write_xing": "0"}),
    "aac": ("aac", "adts", 44_100, {}),
    "amr": ("libopencore_amrnb", "amr", 8_000, {}),
    "ogg": ("libopus", "ogg", 48_000, {}),
}


def tune(rate: int) -> np.ndarray:
    """A tone whose pitch tells the place in the recording: it rises from 300 to 1500 Hz."""
    seconds = np.arange(int(SECONDS * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (300 * seconds + 150 * seconds**2))).astype(np.float32)


def encode(
    codec: str,
    container: str,
    rate: int,
    options: dict[str, str] | None = None,
    layout: str = "mono",
    repeats: int = 1,
) -> bytes:
    """A file with the tone in every channel. `options`: the muxer's."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        channels = av.AudioLayout(layout).nb_channels
        samples = np.repeat(np.tile(tune(rate), repeats)[:, None], channels, 1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, "flt", layout)
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 0
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@cache
def encoded(name: str) -> bytes:
    """A file of DECLARING or UNDECLARING."""
    return encode(*{**DECLARING, **UNDECLARING}[name])


def seconds_of(sound: Sound) -> float:
    return len(sound.samples) / RATE


def lost(sound: Sound, reason: str = "missing") -> float:
    return sum(span.end - span.start for span in sound.skipped if span.reason == reason)
