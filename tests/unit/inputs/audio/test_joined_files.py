"""Recordings that were joined to one file (`cat`): all are heard, and no tag is taken for one."""

import io
import itertools
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from encoded_audio import RATE, SECONDS, encode, encoded, lost, seconds_of
from hypothesis import given
from hypothesis import strategies as st

from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.audio.joined import recordings_in
from antiphon.inputs.audio.sound import Sound

FORMATS = {
    "m4a": ("aac", "mp4", 44_100),
    "webm": ("libopus", "webm", 48_000),
    "ac3": ("ac3", "ac3", 48_000),
}
# Each begins in a way that tells it from what was before, or is behind one that tells its end.
FIRST = ("wav", "flac", "ogg", "wv", "tta", "m4a", "webm", "aiff", "caf", "w64", "au", "aac", "amr")
SECOND = ("wav", "flac", "mp3", "ogg", "wv", "m4a", "webm", "rf64", "aiff", "amr", "tta", "w64")


@cache
def file_of(name: str) -> bytes:
    if name not in FORMATS:
        return encoded(name)
    codec, container, rate = FORMATS[name]
    return encode(codec, container, rate)


@cache
def alone(name: str) -> Sound:
    return read_sound(file_of(name), RATE)


def joined(*names: str) -> np.ndarray:
    return np.concatenate([alone(name).samples for name in names])


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FIRST, SECOND)))
def test_both_are_heard(first: str, second: str) -> None:
    sound = read_sound(file_of(first) + file_of(second), RATE)
    assert lost(sound) == lost(sound, "undecodable") == 0
    if first == "aac":  # its last frame is heard with what is behind it, or not
        assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.15)
    else:
        np.testing.assert_array_equal(sound.samples, joined(first, second))


@pytest.mark.parametrize("second", ["mp3", "mp3-16k", "mp3-without", "aac", "ac3"])
@pytest.mark.parametrize("first", ["wav", "ogg", "m4a", "aiff", "wv", "tta"])
def test_frames_without_a_header_behind_what_tells_its_end(first: str, second: str) -> None:
    content = file_of(second)
    if content[:3] == b"ID3":
        content = content[10 + (content[8] << 7 | content[9]) :]
    sound = read_sound(file_of(first) + content, RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.15)
    np.testing.assert_array_equal(sound.samples[: len(joined(first))], joined(first))


def test_many_and_at_other_rates(tmp_path: Path) -> None:
    names = ("wav", "wav-8k", "wav-s24", "flac", "mp3", "flac", "ogg", "wav-f32")
    content = b"".join(file_of(name) for name in names)
    path = tmp_path / "joined.wav"
    path.write_bytes(content)
    for source in (content, io.BytesIO(content), path):
        sound = read_sound(source, RATE)
        assert seconds_of(sound) == pytest.approx(len(names) * SECONDS, abs=0.3)
        assert sound.skipped == []


def test_what_the_second_lacks_is_told_at_its_time() -> None:
    second = file_of("wav")[: len(file_of("wav")) // 2]
    (span,) = read_sound(file_of("flac") + second, RATE).skipped
    assert (span.start, span.end) == (
        pytest.approx(1.5 * SECONDS, abs=0.01),
        pytest.approx(2 * SECONDS, abs=0.01),
    )
    damaged = bytearray(file_of("flac"))
    damaged[len(damaged) // 2] ^= 0xFF
    (span,) = read_sound(file_of("wav") + bytes(damaged), RATE).skipped
    assert span.start > SECONDS + 1


def test_a_part_that_nothing_reads_is_told() -> None:
    unreadable = b"RIFF\xff\xff\x00\x00WAVE" + np.random.default_rng(0).bytes(70_000)
    sound = read_sound(file_of("wav") + unreadable, RATE)
    np.testing.assert_array_equal(sound.samples, joined("wav"))
    (span,) = sound.skipped
    assert (span.start, span.reason) == (SECONDS, "undecodable")


@pytest.mark.parametrize("name", ["wav", "m4a", "wv", "aiff", "ogg"])
def test_bytes_of_no_known_kind_behind_a_recording_are_told(name: str) -> None:
    content = file_of(name)
    sound = read_sound(content + np.random.default_rng(1).bytes(len(content)), RATE)
    np.testing.assert_array_equal(sound.samples, joined(name))
    (span,) = sound.skipped
    assert span.reason == "undecodable"
    assert 0.5 < span.end - span.start < 3 * SECONDS


@pytest.mark.parametrize("second", ["wav", "flac", "mp3", "m4a"])
def test_bytes_of_no_known_kind_between_two_recordings_are_told(second: str) -> None:
    content, junk = file_of("wav"), np.random.default_rng(8).bytes(64_000)
    sound = read_sound(content + junk + file_of(second), RATE)
    (span,) = sound.skipped
    assert (span.start, span.reason) == (SECONDS, "undecodable")
    assert span.end == pytest.approx(SECONDS + 2, abs=0.01)
    middle = round(span.end * RATE)
    np.testing.assert_array_equal(sound.samples[: round(SECONDS * RATE)], joined("wav"))
    assert not sound.samples[round(SECONDS * RATE) : middle].any()
    np.testing.assert_array_equal(sound.samples[middle:], joined(second))


def test_a_part_between_two_that_nothing_reads_is_told() -> None:
    unreadable = b"FORM\x00\x01\x00\x04AIFF" + bytes([1]) * (1 << 16)
    sound = read_sound(file_of("wav") + unreadable + file_of("flac"), RATE)
    (span,) = sound.skipped
    assert (span.start, span.reason) == (SECONDS, "undecodable")
    np.testing.assert_array_equal(sound.samples[round(span.end * RATE) :], joined("flac"))


def chunk(name: bytes, order: str = "<") -> bytes:
    return name + struct.pack(order + "I", 40_000) + np.random.default_rng(2).bytes(40_000)


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 40_032, 1, 0xA0000000) + bytes(8)
TAGS = {
    "ID3v1": b"TAG" + b"A title".ljust(125),
    "APE": APE + np.random.default_rng(3).bytes(40_000) + APE,
    "zeros": bytes(50_000),
    "ones": b"\xff" * 50_000,
    "LIST": chunk(b"LIST"),
    "bext": bytes(1) + chunk(b"bext") + chunk(b"iXML"),
    "of AIFF": chunk(b"ANNO", ">"),
    "ID3v2": b"ID3\x04\x00\x00\x00\x00\x27\x10" + np.random.default_rng(4).bytes(5008),
    "all": bytes(3) + chunk(b"LIST") + APE + bytes(40_032) + b"TAG" + bytes(125),
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["wav", "wav-adpcm", "flac", "wv", "tta", "aiff", "m4a", "ogg"])
def test_tags_and_padding_are_no_sound(name: str, tag: str) -> None:
    sound = read_sound(file_of(name) + TAGS[tag], RATE)
    assert sound.skipped == []
    np.testing.assert_array_equal(sound.samples, joined(name))


@pytest.mark.parametrize("tag", TAGS)
def test_a_recording_behind_a_tag_is_heard(tag: str) -> None:
    content = file_of("wav") + TAGS[tag] + file_of("mp3")
    np.testing.assert_array_equal(read_sound(content, RATE).samples, joined("wav", "mp3"))


@pytest.mark.parametrize("name", ["aac", "mp3-without"])
def test_tags_amid_frames_belong_to_them(name: str) -> None:
    """As in the pieces that a stream was sent in, put together again."""
    content, first = file_of(name), file_of(name)[:2]
    if content[:3] == b"ID3":
        content = content[10 + (content[8] << 7 | content[9]) :]
        first = content[:2]
    middle = content.index(first, len(content) // 2)
    with_tags = TAGS["ID3v2"] + content[:middle] + TAGS["ID3v2"] + content[middle:]
    assert len(recordings_in(io.BytesIO(with_tags)).spans) == 1
    sound = read_sound(with_tags, RATE)
    assert lost(sound, "undecodable") < 0.1
    assert seconds_of(sound) == pytest.approx(SECONDS, abs=0.1)


def test_a_recording_within_a_picture_or_a_chunk_is_none() -> None:
    wav = bytearray(file_of("wav"))
    inner = b"LIST" + struct.pack("<I", len(wav)) + bytes(wav)
    wav[4:8] = struct.pack("<I", len(wav) - 8 + len(inner))
    np.testing.assert_array_equal(read_sound(bytes(wav) + inner, RATE).samples, joined("wav"))
    flac = file_of("flac")
    picture = b"\x06" + struct.pack(">I", len(wav))[1:] + bytes(wav)
    with_picture = flac[:42] + picture + flac[42:]
    np.testing.assert_array_equal(read_sound(with_picture, RATE).samples, joined("flac"))


MAGICS = (
    b"RIFF\x00\x00\x00\x00WAVEdata", b"RF64\xff\xff\xff\xffWAVEds64", b"riff\x2e\x91\xcf\x11",
    b"FORM\x00\x00\x00\x00AIFF", b"caff\x00\x01", b".snd\x00\x00\x00\x18", b"fLaC\x80\x00\x00\x22",
    b"TTA1\x01\x00", b"wvpk\xff\xff\xff\xff\x04\x04\x00\x00", b"OggS\x00\x02", b"\x1aE\xdf\xa3\x81",
    b"\x00\x00\x00\x04ftyp", b"\x00\x00\x00\x01moov", b"#!AMR\n", b"\xff\xfb", b"\xff\xf1",
    b"\x0bw",
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(MAGICS), st.binary(max_size=40)), min_size=1, max_size=8))
def test_headers_that_make_no_sense_end_the_search(parts: list[tuple[bytes, bytes]]) -> None:
    content = b"".join(magic + behind for magic, behind in parts)
    spans = recordings_in(io.BytesIO(content)).spans
    assert 0 < len(spans) <= len(content)
    starts = [start for start, _ in spans]
    assert starts == sorted(set(starts))
    assert all(start <= end <= len(content) for start, end in spans)


@pytest.mark.parametrize("count", [1, 3])
def test_a_block_of_no_possible_size(count: int) -> None:
    header = b"wvpk\xff\xff\xff\xff\x04\x04" + bytes(40)
    assert len(recordings_in(io.BytesIO(header * count)).spans) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("block", [b"wvpk\x18\x00\x00\x00\x04\x04", b"OggS\x00\x02", b"fLaC\x00"])
def test_many_headers_take_no_longer_than_their_bytes(block: bytes) -> None:
    """Each search reads on from where it is: not all that is behind."""
    content = io.BytesIO((block + bytes(21)) * 100_000)
    assert recordings_in(content).spans
