"""Damaged frames of formats with checksums are silence at their time, and told; nothing else is."""

from functools import cache

import numpy as np
import pytest
from encoded_audio import RATE, SECONDS, encode, encoded, lost, seconds_of

from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.audio.sound import Sound

STEP = 0.01  # seconds that are compared together
# codec, container, rate; seconds of a frame, or of a page of Ogg
FORMATS = {
    "flac": ("flac", "flac", 44_100, 4608 / 44_100),
    "flac-8k": ("flac", "flac", 8_000, 576 / 8_000),
    "wavpack": ("wavpack", "wv", 44_100, 0.5),
    "wavpack-in-matroska": ("wavpack", "matroska", 44_100, 0.5),
    "tta": ("tta", "tta", 44_100, 256 / 245),
    "opus": ("libopus", "ogg", 48_000, 1.0),
    "ac3": ("ac3", "ac3", 48_000, 1536 / 48_000),
    "eac3": ("eac3", "eac3", 48_000, 1536 / 48_000),
}


@cache
def file_of(name: str) -> bytes:
    codec, container, rate, _ = FORMATS[name]
    return encode(codec, container, rate, layout="stereo", repeats=2)


@cache
def whole(name: str) -> Sound:
    return read_sound(file_of(name), RATE)


def wrong_seconds(sound: Sound, name: str) -> float:
    """Of what is heard, and differs from the undamaged file at the same time."""
    right = whole(name).samples
    count = min(len(right), len(sound.samples)) // 160 * 160 - 160
    # What follows a loss begins at a whole sample of ours.
    shifts = (sound.samples[80 + shift : 80 + shift + count] for shift in (-2, -1, 0, 1, 2))
    difference = np.min([np.abs(heard - right[80 : 80 + count]) for heard in shifts], axis=0)
    is_wrong = (difference > 0.13).reshape(-1, 160).any(1)
    seconds = (80 + 160 * np.arange(len(is_wrong))) / RATE
    for span in sound.skipped:
        is_wrong &= (seconds < span.start - 0.03) | (seconds > span.end + 0.03)
    return STEP * int(is_wrong.sum())


def flipped(content: bytes, *places: float) -> bytes:
    damaged = bytearray(content)
    for place in places:
        damaged[int(place * len(content))] ^= 0x5A
    return bytes(damaged)


PLACES = (0.2013, 0.3117, 0.5023, 0.5091, 0.7713)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("place", PLACES)
def test_a_damaged_frame_is_not_heard_and_told(name: str, place: float) -> None:
    assert whole(name).skipped == []
    sound = read_sound(flipped(file_of(name), place), RATE)
    assert seconds_of(sound) == pytest.approx(seconds_of(whole(name)), abs=0.01)
    assert wrong_seconds(sound, name) <= (0.05 if name == "opus" else 0)  # Opus has to begin anew
    (span,) = sound.skipped
    frame = FORMATS[name][3]
    assert frame * 0.9 < span.end - span.start < 2 * frame + 0.01  # two share a damaged header
    silence = sound.samples[round(span.start * RATE) + 400 : round(span.end * RATE) - 400]
    assert not silence.any()


@pytest.mark.parametrize("name", ["flac", "flac-8k", "wavpack", "tta"])
def test_several_damaged_frames(name: str) -> None:
    sound = read_sound(flipped(file_of(name), *PLACES), RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.01)
    assert wrong_seconds(sound, name) == 0
    told = lost(sound, "undecodable") + lost(sound, "missing")
    assert 3 * FORMATS[name][3] * 0.9 < told < 2 * SECONDS * 0.8


def flac_frames() -> list[int]:
    """Where they begin: FFmpeg's encoder gives each the same four bytes but for the last."""
    content = file_of("flac")
    first = content.index(b"\xff\xf8", content.index(b"Lavf"))
    starts, position = [], first
    while (position := content.find(content[first : first + 4], position)) >= 0:
        starts.append(position)
        position += 1
    return starts


@pytest.mark.parametrize("frame", [0, 1, 2, 40, -3, -2, -1])
@pytest.mark.parametrize("offset", [0, 4, 5])
def test_a_damaged_header_of_flac_loses_no_neighbour(frame: int, offset: int) -> None:
    """Nor the time of any, though FFmpeg takes such a frame for a part of the one before."""
    content = bytearray(file_of("flac"))
    content[flac_frames()[frame] + offset] ^= 0x5A
    sound = read_sound(bytes(content), RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.01)
    assert wrong_seconds(sound, "flac") == 0
    told = lost(sound, "undecodable") + lost(sound, "missing")
    assert 0.09 < told < 3 * FORMATS["flac"][3]


def test_bytes_lost_from_or_put_into_a_flac() -> None:
    content, middle = file_of("flac"), len(file_of("flac")) // 2
    for damaged in (
        content[:middle] + content[middle + 1000 :],
        content[:middle] + bytes(4000) + content[middle:],
        content[:middle] + np.random.default_rng(0).bytes(4000) + content[middle + 4000 :],
    ):
        sound = read_sound(damaged, RATE)
        assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.01)
        assert wrong_seconds(sound, "flac") == 0
        assert 0.09 < lost(sound, "undecodable") + lost(sound, "missing") < 0.7


@pytest.mark.parametrize("kept", [0, 1000])
def test_wavpack_goes_on_behind_a_block_of_another_length(kept: int) -> None:
    """FFmpeg would find none of the blocks behind."""
    content, middle = file_of("wavpack"), len(file_of("wavpack")) // 2
    damaged = content[:middle] + bytes(kept) * 2 + content[middle + 1000 - kept :]
    sound = read_sound(damaged, RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.01)
    assert wrong_seconds(sound, "wavpack") == 0
    told = lost(sound, "missing") + lost(sound, "undecodable")
    assert told == pytest.approx(0.5, abs=0.01)


def test_a_page_of_ogg_that_is_damaged_before_all_others_is_missing() -> None:
    content = file_of("opus")
    pages = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    sound = read_sound(flipped(content, (pages[2] + 100) / len(content)), RATE)
    assert seconds_of(sound) == pytest.approx(seconds_of(whole("opus")), abs=0.01)
    assert wrong_seconds(sound, "opus") <= 0.05
    (span,) = sound.skipped
    assert (span.start, span.end) == (0.0, pytest.approx(1.0, abs=0.03))
    # The last one leaves nothing that tells how long the recording was, but for its own size.
    cut = read_sound(flipped(content, (pages[-1] + 100) / len(content)), RATE)
    assert seconds_of(cut) + lost(cut, "undecodable") == pytest.approx(2 * SECONDS, abs=0.3)


def test_a_station_that_had_begun_before_lacks_nothing() -> None:
    """Its sound begins at any time, and no page of it is damaged."""
    content = file_of("opus")
    pages = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    sound = read_sound(content[: pages[2]] + content[pages[4] :], RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS - 2, abs=0.05)
    assert lost(sound, "undecodable") == 0


def test_checksums_that_are_wrong_from_end_to_end_refuse_no_recording() -> None:
    content = bytearray(encoded("wv"))
    start = 0
    while (start := content.find(b"wvpk", start)) >= 0:
        content[start + 28] ^= 0xFF  # of the samples' checksum
        start += 4
    sound = read_sound(bytes(content), RATE)
    np.testing.assert_array_equal(sound.samples, read_sound(encoded("wv"), RATE).samples)
