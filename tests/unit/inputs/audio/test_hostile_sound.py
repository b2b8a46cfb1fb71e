"""Files whose few bytes would buy a lot of work: each takes no longer than its size explains."""

import io
import time
import tracemalloc

import numpy as np
import pytest
from encoded_audio import RATE, encoded

from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.audio.joined import MOST_RECORDINGS, recordings_in

SIZE = 200_000
MOST_SECONDS = 2.0  # of the processor, for SIZE bytes; most take a tenth


def search_seconds(content: bytes) -> float:
    before = time.process_time()
    assert recordings_in(io.BytesIO(content)).spans
    return time.process_time() - before


def test_many_short_recordings_before_a_long_one() -> None:
    assert search_seconds(b"#!AMR\n" * 200 + bytes(1 << 20)) < 1.5
    before = time.process_time()
    read_sound(b"#!AMR\n" * 200 + bytes(1 << 14), RATE)
    assert time.process_time() - before < MOST_SECONDS


def test_more_recordings_than_anybody_joins_are_told() -> None:
    first, other = encoded("wav"), b"#!AMR\n" * 10_000
    joined = recordings_in(io.BytesIO(first + other))
    assert len(joined.spans) == MOST_RECORDINGS
    assert joined.spans[-1][1] + joined.unread[-1] == len(first + other)
    before = time.process_time()
    sound = read_sound(first + other, RATE)
    assert time.process_time() - before < 2 * MOST_SECONDS
    assert sound.skipped[-1].reason == "undecodable"
    np.testing.assert_array_equal(sound.samples, read_sound(first, RATE).samples)


def filled(part: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    return before + part * ((SIZE - len(before)) // len(part)) + behind


def flac_that_ends_with_frame(number: int) -> bytes:
    """Its metadata, which states that many frames of 4096 samples and one."""
    information = b"\x10\x00" * 2 + bytes(6) + b"\x0a\xc4\x40\xf0"
    total = (number * 4096 + 1).to_bytes(4, "big")
    return b"fLaC\x80\x00\x00\x22" + information + total + bytes(16)


WAV = encoded("wav")[: encoded("wav").index(b"data") + 4] + b"\x02\0\0\0" + bytes(2)  # one sample
WAV = WAV[:4] + (len(WAV) - 8).to_bytes(4, "little") + WAV[8:]
HOSTILE = {
    "chunks": filled(b"ABCD" + bytes(4), before=WAV),
    "chunks and padding": filled(b"ABCD" + bytes(5), before=WAV),
    "tags": filled(b"ID3\x04" + bytes(6), before=WAV),
    "recordings": filled(WAV),
    "bytes of FLAC that number its last frame": filled(
        b"\x07", before=flac_that_ends_with_frame(7)
    ),
    "headers of FLAC but for their checksum": filled(
        b"\xff\xf8\xc9\x08\x07\x00", before=flac_that_ends_with_frame(7)
    ),
    "metadata of FLAC": filled(bytes(4), before=b"fLaC\x00\x00\x00\x22" + bytes(34)),
    "FLAC in FLAC": filled(b"fLaC\x00\x00\x00\x22" + bytes(2)),
    "blocks of WavPack": filled(b"wvpk\x18\x00\x00\x00\x04\x04" + bytes(22)),
    "damaged blocks of WavPack": filled(b"wvpk\x19\x00\x00\x00\x04\x04" + b"\1" * 22),
    "beginnings of WavPack": filled(b"wvpk", before=b"wvpk\x18\x00\x00\x00\x04\x04" + bytes(22)),
    "pages of Ogg": filled(b"OggS\x00\x00" + bytes(22)),
    "beginnings of Ogg": filled(b"OggS", before=b"OggS\x00\x02" + bytes(22)),
    "pages of Ogg that are too long": filled(b"OggS\x00\x00" + bytes(20) + b"\xff" * 10),
    "tables of TTA": filled(b"TTA1\x01\x00\x01\x00\x10\x00" + b"\x44\xac\x00\x00" * 2 + bytes(4)),
    "atoms": filled(b"\x00\x00\x00\x08free"),
    "recordings of atoms": filled(b"\x00\x00\x00\x08ftyp"),
    "beginnings of RIFF": filled(b"RIFF", before=b"#!AMR\n"),
    "beginnings of FLAC": filled(b"fLaC", before=b"#!AMR\n"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_search_takes_no_longer_than_its_bytes(kind: str) -> None:
    assert search_seconds(HOSTILE[kind]) < MOST_SECONDS


def test_frames_of_flac_that_are_none() -> None:
    content = filled(b"\xff\xf8\xc9\x08\x07\x00", before=encoded("flac")[:20_000])
    before = time.process_time()
    read_sound(content, RATE)
    assert time.process_time() - before < MOST_SECONDS


@pytest.mark.parametrize("name", ["ogg", "wv"])
def test_the_search_keeps_no_list_of_what_it_read(name: str) -> None:
    part = {"ogg": b"OggS" + bytes(23) + b"\0", "wv": b"wvpk\x18\0\0\0\x04\x04" + bytes(22)}[name]
    content = io.BytesIO(part * 10_000)
    tracemalloc.start()
    recordings_in(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 18
