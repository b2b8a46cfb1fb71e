"""FLAC whose damage resembles frames, and FLAC that was cut from a longer one."""

import io
from typing import Any

import numpy as np
import pytest
from encoded_audio import RATE, SECONDS, av, encode, encoded, lost, seconds_of

from antiphon.inputs.audio.flac import FlacFrames, _checksum
from antiphon.inputs.audio.forms import read_sound

CONTENT = encode("flac", "flac", 44_100, layout="stereo", repeats=2)
FIRST = CONTENT.index(b"\xff\xf8", CONTENT.index(b"Lavf"))


def frames() -> list[int]:
    starts, position = [], FIRST
    while (position := CONTENT.find(CONTENT[FIRST : FIRST + 4], position)) >= 0:
        starts.append(position)
        position += 1
    return starts


def header(number: int, codes: bytes = CONTENT[FIRST : FIRST + 4]) -> bytes:
    """Of a frame as those of the file, or with other codes."""
    text = codes + chr(number).encode()
    return text + bytes([_checksum(text)])


FALSE = {
    "far": header(40_000),
    "near": header(70),
    "variable": header(60, b"\xff\xf9" + CONTENT[FIRST + 2 : FIRST + 4]),
    "of other channels": header(40, CONTENT[FIRST : FIRST + 3] + b"\x08"),
    "no UTF-8": CONTENT[FIRST : FIRST + 4]
    + b"\xc2\x02"
    + bytes([_checksum(CONTENT[FIRST : FIRST + 4] + b"\xc2\x02")]),
}


# Bytes of the sizes of the smallest and the largest frame, and of the count of all samples.
UNKNOWN = {"none": slice(0, 0), "sizes": slice(8 + 4, 8 + 10), "total": slice(8 + 14, 8 + 18)}


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("damages", [True, False])
@pytest.mark.parametrize("false", FALSE)
def test_a_false_header_within_a_frame_drops_no_other(
    false: str, damages: bool, unknown: str
) -> None:
    """Whether or not the next frame's own header is damaged too."""
    content = bytearray(CONTENT)
    starts = frames()
    place = (starts[20] + starts[21]) // 2
    content[place : place + len(FALSE[false])] = FALSE[false]
    if damages:
        content[starts[21] + 4] ^= 0x5A
    content[UNKNOWN[unknown]] = bytes(len(content[UNKNOWN[unknown]]))
    sound = read_sound(bytes(content), RATE)
    if unknown == "total":  # what no header limits is not filled in
        assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.22)
        return
    whole = read_sound(CONTENT, RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.02)
    assert 0.09 < lost(sound) + lost(sound, "undecodable") < 0.45
    behind = slice(round(25 * 4608 / 44_100 * RATE), -1000)
    # What follows a loss begins at a whole sample of ours.
    difference = np.abs(sound.samples[: len(whole.samples)][behind] - whole.samples[behind])
    assert difference.max() < 0.25


class Packet:
    def __init__(self, content: bytes, pts: int | None) -> None:
        self.content, self.pts, self.size, self.duration = content, pts, len(content), 4608

    def __bytes__(self) -> bytes:
        return self.content


class Stream:
    """Whose sizes nobody states."""

    class codec_context:
        extradata = b"\x12\x00" * 2 + bytes(30)


def test_without_stated_sizes_packets_in_order_are_whole() -> None:
    stream: Any = Stream()
    split = FlacFrames(stream, begins_at_0=True)
    content = header(0) + bytes(100) + header(40_000) + bytes(20)
    for number in range(5):
        packet = Packet(content, 4608 * number)
        assert split.frames(packet) == [packet]


def test_behind_a_jump_that_was_none_the_stream_goes_on() -> None:
    stream: Any = Stream()
    split = FlacFrames(stream, begins_at_0=True)
    split.next, split.before_jump = 4608 * 100, 4608 * 10
    packets = [Packet(header(number) + bytes(50), 4608 * number) for number in (11, 12)]
    assert [split.frames(packet) for packet in packets] == [[packet] for packet in packets]
    assert split.next == 4608 * 13


def cut(codec: str, container: str) -> tuple[bytes, float]:
    """The second half of a file, in its packets as they are, and where it begins in seconds."""
    content = encode(codec, container, 44_100, layout="stereo", repeats=2)
    with av.open(io.BytesIO(content)) as source:
        stream = source.streams.audio[0]
        packets = [(p.pts, bytes(p)) for p in source.demux(stream) if p.size]
    head = content[: content.index(packets[0][1])]
    kept = packets[len(packets) // 2 :]
    return head + b"".join(packet for _, packet in kept), kept[0][0] / 44_100


@pytest.mark.parametrize("names", [("flac", "flac"), ("wavpack", "wv")], ids=str)
def test_what_was_cut_from_a_longer_recording_lacks_nothing(names: tuple[str, str]) -> None:
    """Its frames count on from that one's."""
    content, start = cut(*names)
    sound = read_sound(content, RATE)
    assert start > 3
    assert seconds_of(sound) == pytest.approx(2 * SECONDS - start, abs=0.01)
    assert sound.skipped == []
    joined = read_sound(encoded("wav") + content, RATE) if names[0] == "flac" else None
    assert joined is None or (seconds_of(joined), joined.skipped) == (
        pytest.approx(3 * SECONDS - start, abs=0.01),
        [],
    )


@pytest.mark.parametrize("known", [True, False])
def test_what_is_damaged_in_it_is_told_at_its_time(known: bool) -> None:
    content, start = cut("flac", "flac")
    damaged = bytearray(content)
    if not known:
        damaged[8 + 4 : 8 + 10] = bytes(6)
    damaged[len(damaged) * 3 // 4] ^= 0x5A
    sound = read_sound(bytes(damaged), RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS - start, abs=0.01)
    (span,) = sound.skipped
    assert span.start == pytest.approx((2 * SECONDS - start) * 3 / 4, abs=0.4)


def test_a_first_block_of_wavpack_that_is_damaged_is_missing() -> None:
    content = bytearray(encode("wavpack", "wv", 44_100, layout="stereo", repeats=2))
    content[4] ^= 0x5A  # of its size
    sound = read_sound(bytes(content), RATE)
    assert seconds_of(sound) == pytest.approx(2 * SECONDS, abs=0.01)
    (span,) = sound.skipped
    assert (span.start, span.end) == (0.0, pytest.approx(0.5, abs=0.01))
