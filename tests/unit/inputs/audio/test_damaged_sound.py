"""Damaged and odd sound files: what can be decoded is kept at its time, the rest is reported."""

import io
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from encoded_audio import RATE, SECONDS, av, encode, tune

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.audio.sound import Sound

# codec, container, rate, channel layout
FORMATS = {
    "mp3": ("mp3", "mp3", 44_100, "mono"),
    "mp3-16k": ("mp3", "mp3", 16_000, "stereo"),
    "opus": ("libopus", "ogg", 48_000, "mono"),
    "opus-stereo": ("libopus", "ogg", 48_000, "stereo"),
    "webm": ("libopus", "webm", 48_000, "stereo"),
    "flac": ("flac", "flac", 44_100, "mono"),
    "aac": ("aac", "adts", 32_000, "mono"),
    "aac-44k": ("aac", "adts", 44_100, "stereo"),
    "m4a": ("aac", "mp4", 44_100, "mono"),
    "alac": ("alac", "mov", 48_000, "mono"),
    "ac3": ("ac3", "ac3", 48_000, "5.1"),
    "wav": ("pcm_s16le", "wav", 16_000, "mono"),
    "wav-8k": ("pcm_mulaw", "wav", 8_000, "mono"),
    "wav-192k": ("pcm_s24le", "wav", 192_000, "mono"),
    "wav-u8": ("pcm_u8", "wav", 16_000, "mono"),
    "wav-s32": ("pcm_s32le", "wav", 11_025, "mono"),
    "wav-f32": ("pcm_f32le", "wav", 16_000, "mono"),
    "wav-f64": ("pcm_f64le", "wav", 16_000, "stereo"),
    "wav-5.1": ("pcm_s16le", "wav", 48_000, "5.1"),
    "wav-16-channels": ("pcm_s16le", "wav", 16_000, "hexadecagonal"),
    "adpcm": ("adpcm_ms", "wav", 16_000, "mono"),
    "aiff": ("pcm_s16be", "aiff", 22_050, "mono"),
}


@cache
def encoded(name: str) -> bytes:
    codec, container, rate, layout = FORMATS[name]
    return encode(codec, container, rate, layout=layout)


def right_seconds(samples: np.ndarray, offset: float = 0.0) -> float:
    """How many seconds of `samples` sound as the tune does there, `offset` seconds into it; in
    pieces of 0.1 s, by their pitch."""
    piece = RATE // 10
    count = len(samples) // piece
    pieces = samples[: count * piece].reshape(count, piece) * np.hanning(piece)
    spectra = np.abs(np.fft.rfft(pieces, 8 * piece))
    pitch = spectra.argmax(1) * RATE / (8 * piece)
    wanted = 300 + 300 * (offset + 0.1 * np.arange(count) + 0.05)
    return 0.1 * int(((np.abs(pitch - wanted) < 45) & (spectra.max(1) > 20)).sum())


def lost_seconds(sound: Sound) -> float:
    return sum(span.end - span.start for span in sound.skipped)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_in_every_rate_layout_and_sample_format(name: str) -> None:
    sound = read_sound(encoded(name), RATE)
    assert len(sound.samples) / RATE == pytest.approx(SECONDS, abs=0.1)
    assert right_seconds(sound.samples) > SECONDS - 0.3
    assert np.abs(sound.samples[RATE:-RATE]).max() == pytest.approx(0.4, abs=0.08)
    assert lost_seconds(sound) < 0.1


def noise_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + np.random.default_rng(0).bytes(400) + content[middle + 400 :]


def zeros_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(400) + content[middle + 400 :]


def flipped_bits(content: bytes) -> bytes:
    damaged, rng = bytearray(content), np.random.default_rng(1)
    for position in rng.integers(len(content) // 4, len(content) * 3 // 4, 6):
        damaged[position] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut_off(content: bytes) -> bytes:
    return content[: len(content) * 6 // 10]


def with_a_tag_before(content: bytes) -> bytes:
    """An ID3 tag of 1000 bytes, broken inside."""
    return b"ID3\x04\x00\x00\x00\x00\x07\x68" + b"TIT2\xff\xff" + b"\xee" * 994 + content


# Seconds that at least come through, at their own time where the file knows times.
DAMAGED: list[tuple[str, Callable[[bytes], bytes], float]] = [
    *((name, noise_in_the_middle, 1.8) for name in ("mp3", "mp3-16k", "aac", "ac3", "flac")),
    *((name, noise_in_the_middle, 3.5) for name in ("m4a", "alac", "wav", "wav-f32", "wav-u8")),
    ("opus", noise_in_the_middle, 2.6),
    ("webm", noise_in_the_middle, 1.5),
    ("adpcm", noise_in_the_middle, 3.0),
    *((name, zeros_in_the_middle, 1.8) for name in ("mp3", "mp3-16k", "aac", "flac")),
    *((name, zeros_in_the_middle, 3.5) for name in ("m4a", "alac", "wav-f64", "wav-5.1")),
    ("opus-stereo", zeros_in_the_middle, 2.6),
    *((name, flipped_bits, 3.0) for name in ("mp3", "wav", "wav-f32", "wav-f64", "wav-8k")),
    *((name, flipped_bits, 1.0) for name in ("aac", "m4a", "alac", "webm")),
    *((name, cut_off, 2.0) for name in ("mp3", "aac", "ac3", "wav", "wav-s32", "aiff", "webm")),
    *((name, cut_off, 1.6) for name in ("opus", "flac")),
    ("mp3", with_a_tag_before, 3.7),
    ("aac", with_a_tag_before, 3.7),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage", "seconds"), DAMAGED, ids=[f"{n}-{d.__name__}" for n, d, _ in DAMAGED]
)
def test_what_decodes_is_kept(name: str, damage: Callable[[bytes], bytes], seconds: float) -> None:
    sound = read_sound(damage(encoded(name)), RATE)
    assert right_seconds(sound.samples) >= seconds
    assert len(sound.samples) / RATE <= SECONDS + 0.2
    assert np.isfinite(sound.samples).all()
    for span in sound.skipped:
        assert 0 <= span.start < span.end <= SECONDS + 0.2


@pytest.mark.parametrize("name", ["m4a", "alac", "opus", "opus-stereo"])
def test_sound_behind_the_damage_keeps_its_time_and_the_loss_is_told(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "antiphon"):
        sound = read_sound(zeros_in_the_middle(encoded(name)), RATE)
    assert len(sound.samples) / RATE == pytest.approx(SECONDS, abs=0.1)
    assert right_seconds(sound.samples[3 * RATE + 1600 :], 3.1) > 0.7
    (span,) = sound.skipped
    assert span.reason in ("undecodable", "missing")
    assert span.start <= 2.2
    assert right_seconds(sound.samples) + lost_seconds(sound) > SECONDS - 0.5
    assert not sound.samples[int(span.start * RATE) + 800 : int(span.end * RATE) - 800].any()
    assert "are damaged or missing" in caplog.text


@pytest.mark.parametrize("name", ["wav-f32", "webm", "aiff", "flac"])
def test_a_file_that_ends_before_its_header_says_tells_how_much_is_missing(name: str) -> None:
    sound = read_sound(cut_off(encoded(name)), RATE)
    end = len(sound.samples) / RATE
    last = sound.skipped[-1]
    assert (last.reason, last.end) == ("missing", pytest.approx(SECONDS, abs=0.1))
    assert last.start == pytest.approx(end, abs=0.05)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mp3", "mp3-16k"),  # another rate and other channels
        ("mp3-16k", "mp3"),
        ("aac", "aac-44k"),
        ("opus", "opus"),
        ("opus", "opus-stereo"),  # chained Ogg
        ("opus-stereo", "opus"),
        ("flac", "flac"),
    ],
)
def test_a_stream_may_change_in_its_middle(first: str, second: str, tmp_path: Path) -> None:
    content = encoded(first) + encoded(second)
    path = tmp_path / "recording"
    path.write_bytes(content)
    for source in (content, path):
        samples = read_sound(source, RATE).samples
        assert len(samples) / RATE == pytest.approx(2 * SECONDS, abs=0.3)
        half = len(samples) // 2
        assert right_seconds(samples[:half]) > SECONDS - 0.4
        # An encoder's padding in the middle moves what follows by some hundredths of a second.
        assert max(right_seconds(samples[half + shift :]) for shift in range(0, 2400, 400)) > 3.0


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 1000, 10**9])
def test_wav_headers_with_any_size(size: int) -> None:
    """As programs write them that stream, or end before they come back to the header."""
    content = bytearray(encoded("wav"))
    start = content.index(b"data") + 4
    content[start : start + 4] = np.uint32(size).tobytes()
    content[4:8] = np.uint32(min(size + 36, 0xFFFFFFFF)).tobytes()
    sound = read_sound(bytes(content), RATE)
    if size == 1000:
        assert len(sound.samples) == 500
        (span,) = sound.skipped  # no chunk follows, but whatever it is, nobody hears it
        assert span.reason == "undecodable"
        assert span.end == pytest.approx(SECONDS, abs=0.1)
    else:
        assert right_seconds(sound.samples) > SECONDS - 0.3


@pytest.mark.parametrize("extension", ["mp3", "wav", "txt", "jpg", "m4a", ""])
@pytest.mark.parametrize("name", ["mp3", "opus", "wav", "flac"])
def test_the_extension_may_be_wrong(name: str, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"recording.{extension}"
    path.write_bytes(encoded(name))
    assert right_seconds(read_sound(path, RATE).samples) > SECONDS - 0.3


def test_a_few_damaged_floats_are_left_out_and_many_are_refused() -> None:
    content = bytearray(encoded("wav-f32"))
    start = content.index(b"data") + 8
    floats = np.frombuffer(content, "<f4", offset=start).copy()
    floats[32_000:32_100], floats[40_000] = np.nan, 1e38
    sound = read_sound(bytes(content[:start]) + floats.tobytes(), RATE)
    assert np.abs(sound.samples).max() < 1
    assert [round(span.start) for span in sound.skipped] == [2, 2]  # 2.0 and 2.5 s
    floats[::2] = np.nan
    with pytest.raises(AudioError, match="samples are NaN, infinite or beyond 8"):
        read_sound(bytes(content[:start]) + floats.tobytes(), RATE)


def test_floats_of_16_bit_size_in_a_file_are_refused_with_their_size() -> None:
    content = bytearray(encoded("wav-f32"))
    start = content.index(b"data") + 8
    loud = np.frombuffer(content, "<f4", offset=start) * 32768
    with pytest.raises(AudioError, match="beyond 8 where full scale is 1"):
        read_sound(bytes(content[:start]) + loud.astype("<f4").tobytes(), RATE)


def test_the_default_of_several_streams_is_heard() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        video = out.add_stream("mpeg4", rate=10, width=32, height=32)
        streams = [out.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        for stream, samples in zip(streams, (tune(RATE)[::-1], tune(RATE)), strict=True):
            whole = (samples * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(whole), "s16", "mono")
            frame.sample_rate = RATE
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        out.mux(video.encode(None))
    assert right_seconds(read_sound(buffer.getvalue(), RATE).samples) > SECONDS - 0.3


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded("m4a")[: len(encoded("m4a")) // 2], id="m4a without its index"),
        pytest.param(encoded("opus")[9000:], id="opus without its start"),
        pytest.param(encoded("wav")[:44], id="header alone"),
        pytest.param(encoded("flac")[:60], id="flac without a frame"),
        pytest.param(b"RIFF\x00\x00\x00\x00WAVE", id="an empty RIFF"),
        pytest.param(b"ID3" + bytes(2000), id="a tag alone"),
        pytest.param(np.random.default_rng(3).bytes(50_000), id="noise"),
        pytest.param(bytes(100_000), id="zeros"),
        pytest.param(b"\xff\xfb\x90\x00" * 2000, id="mp3 headers alone"),
        pytest.param(b"<!DOCTYPE html><html>not found</html>" * 50, id="a web page"),
        pytest.param(b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", id="a playlist"),
        pytest.param(b"ffconcat version 1.0\nfile /etc/passwd\n", id="a list of files"),
        pytest.param(b"\x1aE\xdf\xa3" + bytes(500), id="a webm that is none"),
    ],
)
def test_where_nothing_decodes_the_error_is_typed(content: bytes) -> None:
    with pytest.raises(AudioError, match="bytes of audio: ") as refused:
        read_sound(content, RATE)
    assert "Errno" not in str(refused.value)


def test_a_single_sample_is_sound() -> None:
    content = encoded("wav")
    start = content.index(b"data") + 8
    header = content[: start - 4] + np.uint32(2).tobytes()
    assert len(read_sound(header + b"\x00\x40", RATE).samples) == 1
