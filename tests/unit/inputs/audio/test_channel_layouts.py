"""Channels of any number and order, which PyAV cannot all handle by itself: without this code such
files ended the process."""

import io
import struct

import numpy as np
import pytest

from antiphon.compat.faster_whisper.audio import decode_audio
from antiphon.inputs.audio.forms import load_audio

av = pytest.importorskip("av")  # a GPU machine may lack it

RATE = 16_000
LEFT, RIGHT, CENTER, BASS = 1, 2, 3, 4  # CAF's labels


def caf(labels: list[int], samples: np.ndarray) -> bytes:
    """16-bit samples [n, channels], whose places are listed one by one."""
    count = len(labels)
    description = struct.pack(">d4sIIIII", RATE, b"lpcm", 2, 2 * count, 1, count, 16)
    places = b"".join(struct.pack(">II3f", label, 0, 0, 0, 0) for label in labels)
    chunks = {
        b"desc": description,
        b"chan": struct.pack(">III", 0, 0, count) + places,
        b"data": bytes(4) + samples.astype("<i2").tobytes(),
    }
    content = b"caff" + struct.pack(">HH", 1, 0)
    return content + b"".join(
        name + struct.pack(">q", len(chunk)) + chunk for name, chunk in chunks.items()
    )


@pytest.mark.parametrize(
    "labels", [[RIGHT, LEFT], [LEFT, LEFT], [CENTER, BASS, LEFT], [LEFT, RIGHT]], ids=str
)
def test_channels_in_an_order_of_their_own(labels: list[int]) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, (40_000, len(labels)))
    content = caf(labels, samples)
    for _ in range(3):  # memory that was freed twice may show later
        heard = load_audio(content, RATE)
        np.testing.assert_allclose(heard, samples.mean(1) / 2**15, atol=1e-4)
        left, right = decode_audio(io.BytesIO(content), RATE, split_stereo=True)
        if len(labels) == 2:
            np.testing.assert_allclose(left, samples[:, 0] / 2**15, atol=1e-4)
            np.testing.assert_allclose(right, samples[:, 1] / 2**15, atol=1e-4)


@pytest.mark.parametrize(
    ("codec", "container", "layout"),
    [
        ("libopus", "ogg", "7.1"),
        ("wavpack", "wv", "7.1"),
        ("wavpack", "wv", "hexadecagonal"),
        ("flac", "flac", "7.1"),
        ("ac3", "ac3", "5.1"),
    ],
)
def test_many_channels(codec: str, container: str, layout: str) -> None:
    """Planar ones from eight on are more than PyAV counts rightly."""
    tone = (0.3 * np.sin(np.arange(96_000) / 20)).astype(np.float32)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000, layout=layout)
        channels = av.AudioLayout(layout).nb_channels
        frame = av.AudioFrame.from_ndarray(np.repeat(tone, channels)[None], "flt", layout)
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(stream.codec_context.format.name, layout, 48_000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(part):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    heard = load_audio(buffer.getvalue(), RATE)
    assert len(heard) == pytest.approx(32_000, abs=3000)
    assert np.abs(heard[4000:28_000]).max() == pytest.approx(0.3, abs=0.05)
