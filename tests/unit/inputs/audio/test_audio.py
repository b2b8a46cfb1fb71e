"""Sound in: containers and codecs, resampling, features, cuts, and everything that is not sound."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from antiphon.config.errors import AudioError
from antiphon.encoder.frontends.log_mel import LogMel
from antiphon.families.audio_config import AudioConfig
from antiphon.inputs.audio.cuts import cut_at_quiet
from antiphon.inputs.audio.forms import load_audio

RATE = 16_000


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


def encode(samples: np.ndarray, rate: int, codec: str, container: str, channels: int = 1) -> bytes:
    import av

    buffer = io.BytesIO()
    layout = "mono" if channels == 1 else "stereo"
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.repeat((samples * 32767).astype(np.int16)[:, None], channels, 1).reshape(1, -1),
            "s16",
            layout,
        )
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            stream.format, layout, rate, frame_size=stream.codec_context.frame_size or 0
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def peak_frequency(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


@pytest.mark.parametrize(
    ("codec", "container", "rate", "channels"),
    [
        ("pcm_s16le", "wav", 8_000, 1),
        ("pcm_s16le", "wav", 44_100, 2),
        ("pcm_f32le", "wav", 16_000, 1),
        ("flac", "flac", 22_050, 1),
        ("mp3", "mp3", 44_100, 2),
        ("libopus", "ogg", 48_000, 1),
        ("libopus", "webm", 48_000, 2),
        ("aac", "adts", 32_000, 1),
        ("alac", "mov", 44_100, 1),
    ],
)
def test_formats(codec: str, container: str, rate: int, channels: int) -> None:
    samples = load_audio(encode(tone(1.0, rate), rate, codec, container, channels), RATE)
    assert samples.dtype == np.float32
    assert abs(len(samples) - RATE) < 0.15 * RATE  # lossy codecs pad
    assert peak_frequency(samples[1000:-1000]) == pytest.approx(440, abs=3)
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 48_000])
def test_arrays_are_resampled(rate: int) -> None:
    samples = load_audio((tone(1.0, rate), rate), RATE)
    assert len(samples) == pytest.approx(RATE, abs=40)
    assert peak_frequency(samples) == pytest.approx(440, abs=2)


def test_integers_and_channels() -> None:
    stereo = np.stack([tone(0.5, RATE), np.zeros(RATE // 2, np.float32)], 1)
    np.testing.assert_allclose(load_audio((stereo, RATE), RATE), tone(0.5, RATE) / 2, atol=1e-6)
    np.testing.assert_allclose(
        load_audio(((tone(0.5, RATE) * 32767).astype(np.int16), RATE), RATE),
        tone(0.5, RATE),
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/file.wav", "no such file"),
        ("/tmp", "is a folder"),
        (b"", "0 bytes are not readable as audio"),
        (b"this is text, not sound" * 100, "not readable as audio"),
        ((np.array([], np.float32), RATE), "empty"),
        ((np.array([0.0, np.nan, np.inf], np.float32), RATE), "2 of 3 samples are NaN or infinite"),
        ((np.zeros(10, np.float32), 0), "sampling rate 0"),
        ((np.zeros(10, np.float32), 16.0), "sampling rate 16.0"),
        ((np.zeros(10, np.float32), -16_000), "sampling rate -16000"),
        ((np.zeros(10, complex), RATE), "floats or signed integers"),
        ((np.zeros((2, 3, 4), np.float32), RATE), r"shape \[n\], \[n, channels\] or"),
        ((np.zeros(10, np.float32),), "must be"),
        (17, "must be a path, the bytes of a file, .*; not int 17"),
    ],
)
def test_what_is_not_sound_is_refused_at_once(source, message: str) -> None:
    began = time.perf_counter()
    with pytest.raises(AudioError, match=message):
        load_audio(source, RATE)
    assert time.perf_counter() - began < 10


def test_files_that_are_empty_cut_short_or_without_sound(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    with pytest.raises(AudioError, match="the file is empty"):
        load_audio(empty, RATE)
    header_only = tmp_path / "header.wav"
    header_only.write_bytes(encode(tone(1.0, RATE), RATE, "pcm_s16le", "wav")[:44])
    with pytest.raises(AudioError, match=r"holds no samples|not readable"):
        load_audio(header_only, RATE)
    half = encode(tone(1.0, RATE), RATE, "pcm_s16le", "wav")
    assert 0.3 * RATE < len(load_audio(half[: len(half) // 2], RATE)) < 0.7 * RATE
    import av

    video = tmp_path / "silent.mp4"
    with av.open(str(video), "w") as out:
        stream = out.add_stream("mpeg4", rate=10, width=32, height=32)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        out.mux(stream.encode(None))
    with pytest.raises(AudioError, match="holds no audio stream"):
        load_audio(video, RATE)


@pytest.mark.parametrize(("mels", "seconds"), [(80, 30), (128, 30), (80, 8)])
def test_log_mel_equals_transformers(mels: int, seconds: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)
    rng = np.random.default_rng(0)
    clips = [
        rng.standard_normal(int(rng.integers(1, seconds * RATE))).astype(np.float32) * scale
        for scale in (1.0, 0.1, 1e-3)
    ] + [
        np.zeros(RATE, np.float32),
        tone(seconds, RATE),
    ]
    wanted = extractor(clips, sampling_rate=RATE, return_tensors="pt").input_features
    config = AudioConfig(window=seconds * RATE, mel_bins=mels)
    padded = np.stack([np.pad(clip, (0, config.window - len(clip))) for clip in clips])
    torch.testing.assert_close(LogMel(config)(torch.from_numpy(padded)), wanted, atol=1e-4, rtol=0)


def test_cuts_cover_everything_at_quiet_places() -> None:
    rng = np.random.default_rng(1)
    pieces = []
    for _ in range(20):
        pieces += [
            rng.standard_normal(int(RATE * rng.uniform(0.8, 1.6))) * 0.3,
            np.zeros(int(RATE * 0.2)),
        ]
    samples = np.concatenate(pieces).astype(np.float32)
    window = 5 * RATE
    spans = cut_at_quiet(samples, window, RATE)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(samples)
    for (start, end), following in zip(spans, [*spans[1:], None], strict=True):
        assert 0 < end - start <= window
        if following is not None:
            assert following[0] == end
            assert np.abs(samples[end - 200 : end + 200]).max() == 0.0, "cut through sound"


def test_short_recordings_are_not_cut() -> None:
    assert cut_at_quiet(np.zeros(100, np.float32), 200, RATE) == [(0, 100)]
    assert cut_at_quiet(np.zeros(200, np.float32), 200, RATE) == [(0, 200)]
