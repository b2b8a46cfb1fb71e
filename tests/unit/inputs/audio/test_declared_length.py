"""Files that end before their header says: the rest is kept, and the loss is reported."""

import io
import struct
from typing import Any

import pytest
from encoded_audio import (
    DECLARING,
    RATE,
    SECONDS,
    UNDECLARING,
    encode,
    encoded,
    lost,
    seconds_of,
)

from antiphon.inputs.audio.forms import read_sound


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
    content = encode(codec, container, rate, layout="stereo", repeats=repeats)
    assert read_sound(content, RATE).skipped == []
    half = read_sound(content[: len(content) // 2], RATE)
    assert lost(half) == pytest.approx(repeats / 2 * SECONDS, abs=0.5)


@pytest.mark.parametrize("name", DECLARING)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_was_cut_off_is_missing(name: str, share: float) -> None:
    """Files that end amid sound; long frames that are cut are lost."""
    content = encoded(name)
    sound = read_sound(content[: int(share * len(content))], RATE)
    last = sound.skipped[-1]
    assert last.reason == "missing"
    assert last.start == pytest.approx(seconds_of(sound), abs=0.01)
    assert last.end == pytest.approx(SECONDS, abs=0.15)
    slack = 1.1 if name in ("flac", "tta", "wv") else 0.1
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
        start = content.index(b"data") + 4
        content[start : start + 8] = struct.pack(">q", size)
    else:
        start = content.index(b"data") + 4
        content[start : start + 4] = struct.pack("<I", size & 0xFFFFFFFF)
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
    start = content.index(b"data")
    chunks = (
        b"bext" + struct.pack("<I", 603) + bytes(604) + b"LIST" + struct.pack("<I", 8) + b"INFOdata"
    )
    sound = read_sound(content[:start] + chunks + content[start : len(content) // 2], RATE)
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
