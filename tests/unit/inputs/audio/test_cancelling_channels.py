"""Channels whose mean is silence, as of a microphone with swapped wires: one of them is heard."""

import io

import numpy as np
import pytest
from encoded_audio import RATE, SECONDS, av, tune

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.forms import load_audio, read_sound


def encode(codec: str, container: str, rate: int, channels: list[np.ndarray], layout: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.stack(channels, 1).reshape(1, -1).astype(np.float32), "flt", layout
        )
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


CODECS = [
    ("pcm_s16le", "wav", 16_000),
    ("pcm_u8", "wav", 16_000),
    ("pcm_f32le", "wav", 16_000),
    ("flac", "flac", 44_100),
    ("mp3", "mp3", 44_100),
    ("aac", "adts", 44_100),
    ("libopus", "ogg", 48_000),
]


@pytest.mark.parametrize(("codec", "container", "rate"), CODECS)
def test_a_file_in_antiphase_is_heard(codec: str, container: str, rate: int) -> None:
    sound = tune(rate)
    antiphase = load_audio(encode(codec, container, rate, [sound, -sound], "stereo"), RATE)
    in_phase = load_audio(encode(codec, container, rate, [sound, sound], "stereo"), RATE)
    count = min(len(antiphase), len(in_phase))
    alike = np.corrcoef(antiphase[:count], in_phase[:count])[0, 1]
    assert alike > 0.99
    assert np.abs(antiphase).max() == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32", "uint8"])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_an_array_in_antiphase_is_heard(dtype: str, rate: int) -> None:
    sound = tune(rate)
    channels = np.stack([sound, -sound])
    if dtype == "uint8":
        channels = np.rint(channels * 127) + 128
    elif dtype.startswith("int"):
        channels = np.rint(channels * 32767)
    heard = load_audio((channels.astype(dtype), rate), RATE)
    alone = load_audio((channels[0].astype(dtype), rate), RATE)
    np.testing.assert_allclose(heard, alone, atol=0.01)


def test_only_where_they_cancel_out() -> None:
    """A speaker in both channels, then one with the second channel upside down."""
    sound = tune(RATE)
    half = len(sound) // 2 // 4096 * 4096
    second = np.concatenate([sound[:half] * 0.5, -sound[half:]])
    heard = load_audio((np.stack([sound, second]), RATE), RATE)
    np.testing.assert_allclose(heard[:half], sound[:half] * 0.75, atol=1e-6)
    np.testing.assert_allclose(heard[half:], sound[half:], atol=1e-6)


def test_the_first_channel_with_sound_is_taken() -> None:
    sound = tune(RATE)
    channels = [np.zeros_like(sound), sound * 0.01, sound, -sound * 1.01]
    heard = load_audio((np.stack(channels), RATE), RATE)
    np.testing.assert_allclose(heard, sound, atol=1e-6)


def test_silence_and_what_is_nearly_silence_stay_so() -> None:
    step = np.float32(1 / 32768)
    dither = np.random.default_rng(0).integers(-1, 2, int(SECONDS * RATE)).astype(np.float32) * step
    for channels in ([np.zeros_like(dither)] * 2, [dither, -dither]):
        assert not load_audio((np.stack(channels), RATE), RATE).any()


@pytest.mark.parametrize("channel", [0, 1])
def test_nan_in_a_channel_of_a_file_is_silenced_and_told(channel: int) -> None:
    sound = tune(RATE)
    channels = [sound.copy(), sound.copy()]
    channels[channel][20_000] = np.nan
    heard = read_sound(encode("pcm_f32le", "wav", RATE, channels, "stereo"), RATE)
    assert len(heard.samples) == len(sound)
    wrong = np.flatnonzero(np.abs(heard.samples - sound) > 1e-6)
    assert wrong.tolist() == [20_000]
    (span,) = heard.skipped
    assert (span.start, span.reason) == (pytest.approx(20_000 / RATE, abs=0.1), "undecodable")


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_nan_in_a_channel_of_an_array_is_refused(channel: int, rate: int) -> None:
    channels = np.stack([tune(rate), -tune(rate)])
    channels[channel, 20_000] = np.nan
    with pytest.raises(AudioError, match=f"1 of {channels.shape[1]} samples are NaN"):
        load_audio((channels, rate), RATE)
