"""Files that end before their header says, and files whose bytes have slipped: the rest is kept, the loss is told."""

import io
import struct
from functools import cache
from typing import Any

import numpy as np
import pytest

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.forms import read_sound
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
    """A tone whose pitch rises from 300 to 1500 Hz."""
    seconds = np.arange(int(SECONDS * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (300 * seconds + 150 * seconds**2))).astype(np.float32)


@cache
def encoded(name: str) -> bytes:
    codec, container, rate, options = {**DECLARING, **UNDECLARING}[name]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tune(rate)[None], "flt", "mono")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 0
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=size)
        for each in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(each))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def seconds_of(sound: Sound) -> float:
    return len(sound.samples) / RATE


def lost(sound: Sound, reason: str = "missing") -> float:
    return sum(span.end - span.start for span in sound.skipped if span.reason == reason)


@pytest.mark.parametrize("name", [*DECLARING, *UNDECLARING])
def test_whole_files_miss_nothing(name: str, tmp_path: Any) -> None:
    path = tmp_path / "recording"
    path.write_bytes(encoded(name))
    for source in (path, encoded(name), io.BytesIO(encoded(name))):
        sound = read_sound(source, RATE)
        assert seconds_of(sound) == pytest.approx(SECONDS, abs=0.15)
        assert sound.skipped == []


@pytest.mark.parametrize(
    ("name", "repeats"), [("wav-adpcm", 50), ("wav-s24", 50), ("mp3", 10), ("mp3-16k", 10)]
)
def test_long_files_are_counted_exactly(name: str, repeats: int) -> None:
    """An error of one in a hundred would be seconds here."""
    codec, container, rate, _ = DECLARING[name]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.tile(tune(rate), repeats)[None].repeat(2, 0), "fltp", "stereo"
        )
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 0
        resampler = av.AudioResampler(stream.format, "stereo", rate, frame_size=size)
        for each in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(each))
        out.mux(stream.encode(None))
    assert read_sound(buffer, RATE).skipped == []
    half = read_sound(buffer.getvalue()[: len(buffer.getvalue()) // 2], RATE)
    assert lost(half) == pytest.approx(repeats / 2 * SECONDS, abs=0.5)


@pytest.mark.parametrize("name", DECLARING)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_was_cut_off_is_missing(name: str, share: float) -> None:
    """Files that end amid sound; FLAC's and TTA's frames are long, and one that is cut is lost."""
    content = encoded(name)
    sound = read_sound(content[: int(share * len(content))], RATE)
    last = sound.skipped[-1]
    assert last.reason == "missing"
    assert last.start == pytest.approx(seconds_of(sound), abs=0.01)
    assert last.end == pytest.approx(SECONDS, abs=0.15)
    slack = 1.1 if name in ("flac", "tta") else 0.1
    assert share * SECONDS - slack < seconds_of(sound) < share * SECONDS + slack


@pytest.mark.parametrize("name", UNDECLARING)
def test_where_nothing_is_declared_nothing_is_missing(name: str) -> None:
    content = encoded(name)
    sound = read_sound(content[: len(content) // 2], RATE)
    assert seconds_of(sound) == pytest.approx(SECONDS / 2, abs=0.4)
    assert lost(sound) == 0


@pytest.mark.parametrize("name", DECLARING)
def test_a_file_with_another_behind_it_misses_nothing(name: str) -> None:
    sound = read_sound(encoded(name) * 2, RATE)
    assert seconds_of(sound) >= SECONDS - 0.15
    assert lost(sound) == 0


def with_size(name: str, size: int) -> bytes:
    """With another size in the header of its samples."""
    content = bytearray(encoded(name))
    if name == "au":
        content[8:12] = struct.pack(">I", size & 0xFFFFFFFF)
    elif name == "caf":
        at = content.index(b"data") + 4
        content[at : at + 8] = struct.pack(">q", size)
    else:
        at = content.index(b"data") + 4
        content[at : at + 4] = struct.pack("<I", size & 0xFFFFFFFF)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(
            ("wav", size)
            for size in (0, -1, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 44, 0xFFFFF000)
        ),
        *(("wav-f32", size) for size in (0, -1, 0x7FFFFFFF)),
        *(("au", size) for size in (-1, 0x7FFFFFFF)),
        ("caf", -1),
    ],
)
def test_placeholders_of_streams_declare_nothing(name: str, size: int) -> None:
    sound = read_sound(with_size(name, size), RATE)
    assert seconds_of(sound) == pytest.approx(SECONDS, abs=0.1)
    assert sound.skipped == []


def test_a_length_that_no_recording_has_is_a_wrong_header() -> None:
    assert read_sound(with_size("wav", 10**9), RATE).skipped == []  # 8.7 h
    assert lost(read_sound(with_size("wav", 10 * 32_000), RATE)) == pytest.approx(6.0, abs=0.01)


def test_chunks_before_the_samples() -> None:
    """Broadcast WAV has hundreds of bytes of them, some of odd size."""
    content = encoded("wav")
    at = content.index(b"data")
    chunks = (
        b"bext" + struct.pack("<I", 603) + bytes(604) + b"LIST" + struct.pack("<I", 8) + b"INFOdata"
    )
    sound = read_sound(content[:at] + chunks + content[at : len(content) // 2], RATE)
    assert lost(sound) == pytest.approx(2.0, abs=0.05)


def test_an_mp3_with_a_tag_and_a_cover() -> None:
    content = encoded("mp3")
    assert content[:3] == b"ID3"
    picture = 100_000
    tag = b"ID3\x04\x00\x00" + bytes(
        [picture >> 21 & 127, picture >> 14 & 127, picture >> 7 & 127, picture & 127]
    )
    inner = b"APIC" + bytes(
        [
            (picture - 10) >> 21 & 127,
            (picture - 10) >> 14 & 127,
            (picture - 10) >> 7 & 127,
            (picture - 10) & 127,
            0,
            0,
        ]
    )
    body = content[10 + (content[8] << 7 | content[9]) :]
    sound = read_sound(
        tag + inner + b"\x00image/png\x00\x03\x00" + bytes(picture - 23) + body[: len(body) // 2],
        RATE,
    )
    assert lost(sound) == pytest.approx(2.0, abs=0.2)


# ---------------------------------------------------------------------- AMR

SID, NO_DATA = b"\x44" + bytes(5), b"\x7c"  # of AMR-NB


def amr_frames() -> tuple[bytes, list[bytes]]:
    content = encoded("amr")
    size = 13  # of a frame of 4.75 kbit/s
    return content[:6], [content[at : at + size] for at in range(6, len(content), size)]


@pytest.mark.parametrize(
    "junk", [np.random.default_rng(5).bytes(500), bytes(500), b"\xff" * 500, b"RIFF" * 125], ids=str
)
@pytest.mark.parametrize("replaced", [0, 500])
def test_amr_with_junk_inside_is_hardly_longer_than_its_bytes(junk: bytes, replaced: int) -> None:
    content = encoded("amr")
    middle = len(content) // 2
    sound = read_sound(content[:middle] + junk + content[middle + replaced :], RATE)
    longest = SECONDS + (len(junk) - replaced) / len(content) * SECONDS
    assert SECONDS - 0.5 < seconds_of(sound) < longest + 0.3
    assert lost(sound, "undecodable") > 0.1


def test_pauses_of_amr_are_silence_and_no_loss() -> None:
    """Phones send a descriptor of the silence now and then, and nothing between."""
    header, frames = amr_frames()
    pause = [SID, *[NO_DATA] * 7] * 6  # 0.96 s
    sound = read_sound(header + b"".join([*frames[:100], *pause, *frames[100:]]), RATE)
    assert seconds_of(sound) == pytest.approx(SECONDS + 0.96, abs=0.05)
    assert sound.skipped == []
    assert not sound.samples[int(2.05 * RATE) : int(2.9 * RATE)].any()
    assert np.abs(sound.samples[int(3.1 * RATE) :]).max() > 0.2


def test_amr_frames_marked_as_damaged_are_left_out() -> None:
    header, frames = amr_frames()
    marked = [bytes([frame[0] | 4]) + frame[1:] for frame in frames]
    marked[50:60] = [bytes([frame[0] & ~4]) + frame[1:] for frame in marked[50:60]]
    sound = read_sound(header + b"".join(marked), RATE)
    (span,) = sound.skipped
    assert (span.start, span.end) == (pytest.approx(1.0, abs=0.03), pytest.approx(1.2, abs=0.03))
    # Encoders that never set the mark are taken at their word.
    assert (
        read_sound(
            header + b"".join(bytes([frame[0] & ~4]) + frame[1:] for frame in frames), RATE
        ).skipped
        == []
    )


# ---------------------------------------------------------------------- floats

FORMATS = {"wav-f32": 4, "wav-f64": 8}


def noisy(name: str) -> tuple[bytes, bytes]:
    """Header and samples of a float WAV with all its bits in use."""
    content = encoded(name)
    start = content.index(b"data") + 8
    dtype = f"<f{FORMATS[name]}"
    samples = np.frombuffer(content, dtype, offset=start)
    return content[:start], (samples * np.pi / 3).astype(dtype).tobytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bytes_lost", [1, 2, 3])
def test_floats_that_slipped_keep_what_came_before(name: str, bytes_lost: int) -> None:
    header, samples = noisy(name)
    middle = len(samples) // 2
    sound = read_sound(header + samples[:middle] + samples[middle + bytes_lost :], RATE)
    whole = read_sound(header + samples, RATE)
    assert seconds_of(sound) == pytest.approx(SECONDS, abs=0.01)
    np.testing.assert_array_equal(
        sound.samples[: 2 * RATE - 1024], whole.samples[: 2 * RATE - 1024]
    )
    assert np.isfinite(sound.samples).all()
    assert lost(sound, "undecodable") == pytest.approx(2.0, abs=0.1)
    (span,) = sound.skipped
    assert not sound.samples[int(span.start * RATE) + 1 : int(span.end * RATE) - 1].any()


@pytest.mark.parametrize("name", FORMATS)
def test_floats_that_slipped_at_once_are_refused(name: str) -> None:
    header, samples = noisy(name)
    with pytest.raises(AudioError, match="samples are NaN, infinite or beyond 8"):
        read_sound(header + samples[3:], RATE)


def test_floats_in_another_unit_with_pauses_are_refused() -> None:
    header, samples = noisy("wav-f32")
    loud = np.frombuffer(samples, "<f4") * 32768
    loud[: 3 * RATE] = 0  # most of it is no larger than 8
    with pytest.raises(AudioError, match="beyond 8 where full scale is 1"):
        read_sound(header + loud.astype("<f4").tobytes(), RATE)
