"""Raw FLAC by its frames (RFC 9639).

FFmpeg's parser gives a frame whose header is damaged as one packet with its neighbours, and often
without a time; its decoder then loses several for one. But each frame knows its place.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

from antiphon.inputs.audio.places import FIRST_BLOCK, blocks_from, bytes_at, find

MAGIC, STREAM_INFORMATION = b"fLaC", 34  # bytes of that block
MOST_BLOCKS = 4096  # of metadata
SYNC = re.compile(rb"\xff[\xf8\xf9]")
LONGEST_HEADER = 16  # bytes
# Frames between two of one packet that may be lost where nothing but the second one's header says
# so: one in 256 texts that resemble a header passes for one.
MOST_LOST = 16


class Header(NamedTuple):
    """`number`: of the frame or, if `is_variable`, of its first sample. `kind`: what all frames of
    a stream share, its way to number them among it."""

    number: int
    samples: int
    is_variable: bool
    kind: tuple[int, ...]


class Frame(NamedTuple):
    """Where it begins in its packet, its first sample, the one behind its last, and its kind."""

    offset: int
    start: int
    end: int
    kind: tuple[int, ...]


class FlacFrames:
    """Of one stream, in order."""

    def __init__(self, stream: Any, begins_at_0: bool) -> None:
        """`begins_at_0`: else it goes on from where its first frame begins."""
        self.stream = stream
        information = bytes(stream.codec_context.extradata or b"")
        # Samples of every frame but the last, where that is fixed; bytes of the largest frame; and
        # samples of all. 0: not known.
        self.samples = int.from_bytes(information[2:4], "big")
        self.largest = int.from_bytes(information[7:10], "big")
        self.total = _total(information)
        self.next = self.first = 0 if begins_at_0 else None  # the first sample behind all so far
        self.before_jump = 0  # as `next`, without the last frame if that left others out
        self.kind: tuple[int, ...] | None = None

    def frames(self, packet: Any) -> list[Any]:
        """Of a packet by FFmpeg, as packets of their own."""
        if not packet.size:
            return [packet]
        if self.next is None:  # FFmpeg may have the time of a later frame
            first = _header(bytes(packet)[:LONGEST_HEADER])
            self.next = self.first = self.before_jump = self._start(first) if first else 0
        if packet.pts is None or (self.largest and packet.size > self.largest):
            return self.split(packet)
        # Behind a jump that was none, the stream goes on where it was.
        if packet.pts == self.next or self.before_jump <= packet.pts < self.next:
            if self.kind is None and (header := _header(bytes(packet)[:LONGEST_HEADER])):
                self.kind = header.kind
            self.next = self.before_jump = packet.pts + packet.duration
            return [packet]
        return self.split(packet)

    def split(self, packet: Any) -> list[Any]:
        """As `frames`, of one that is damaged. None of those that were there before."""
        import av

        content = bytes(packet)
        frames = self._in_order(self._all_frames(content), packet.pts)
        ends = [*(frame.offset for frame in frames[1:]), len(content)]
        pieces = []
        for frame, end in zip(frames, ends, strict=False):
            piece = av.Packet(content[frame.offset : end])
            piece.stream, piece.time_base = self.stream, self.stream.time_base
            piece.pts, piece.duration = frame.start, frame.end - frame.start
            pieces.append(piece)
        return pieces

    def _start(self, header: Header) -> int:
        return header.number * (1 if header.is_variable else self.samples)

    def _all_frames(self, content: bytes) -> list[Frame]:
        """Those whose header is whole and of the stream's kind. Chance makes others."""
        frames = []
        for sync in SYNC.finditer(content):
            offset = sync.start()
            header = _header(content[offset : offset + LONGEST_HEADER])
            if header is not None:
                start = self._start(header)
                frames.append(Frame(offset, start, start + header.samples, header.kind))
        kind = self.kind
        if kind is None and frames:
            kind = Counter(frame.kind for frame in frames).most_common(1)[0][0]
        return [frame for frame in frames if frame.kind == kind]

    def _in_order(self, frames: list[Frame], pts: int | None) -> list[Frame]:
        """Those that may follow what was before. Notes where the last one ends."""
        chosen = []
        for frame, following in zip(frames, [*frames[1:], None], strict=True):
            behind = self.next or 0
            if frame.start < behind:
                continue
            goes_on = following is not None and following.start == frame.end
            if frame.offset or frame.start != pts:  # else FFmpeg takes it for one too
                if self.total and frame.start >= (self.first or 0) + self.total:
                    continue
                most = MOST_LOST * max(self.samples, frame.end - frame.start)
                if frame.start - behind > most and not goes_on:
                    continue
                if following is not None and behind <= following.start < frame.start:
                    continue
            self.before_jump = behind if frame.start > behind else frame.end
            self.next = frame.end
            chosen.append(frame)
        return chosen


def lacks_its_begin(content: Any, start: int) -> bool:
    """Whether no frame follows the metadata of the recording at `start`."""
    frames = _end_of_metadata(content, start)
    return _header(bytes_at(content, frames, LONGEST_HEADER)) is None


def last_frame(content: Any, start: int, size: int) -> int:
    """Where the last frame of the recording at `start` begins, which is never too far: that of its
    first frame where this one is damaged, or has no fixed place."""
    information = bytes_at(content, start + 8, STREAM_INFORMATION)
    frames = _end_of_metadata(content, start)
    per_frame = int.from_bytes(information[2:4], "big")
    number = (_total(information) - 1) // per_frame if per_frame else -1
    if not 0 < number < 0x110000 or find(content, MAGIC, frames, size) >= 0:
        return frames
    coded = chr(number).encode("utf-8", "surrogatepass")
    wanted = re.compile(SYNC.pattern + b".." + re.escape(coded), re.DOTALL)
    for position, block in blocks_from(content, frames, size, FIRST_BLOCK):
        for begin in wanted.finditer(block):
            header = _header(block[begin.start() : begin.start() + LONGEST_HEADER])
            if header is not None and header.number == number:
                return position + begin.start()
    return frames


def _end_of_metadata(content: Any, start: int) -> int:
    position = start + len(MAGIC)
    for _ in range(MOST_BLOCKS):
        block = bytes_at(content, position, 4)
        if len(block) == 4:
            position += 4 + int.from_bytes(block[1:], "big")
        if len(block) < 4 or block[0] & 0x80:
            break
    return position


def _total(information: bytes) -> int:
    """Samples of the whole stream; 0: not known."""
    return int.from_bytes(information[13:18], "big") & (1 << 36) - 1


def _header(content: bytes) -> Header | None:
    if len(content) < 6 or not SYNC.match(content):
        return None
    sizes, rates, channels, depth = (
        code for byte in content[2:4] for code in (byte >> 4, byte & 15)
    )
    number, end = _coded_number(content)
    size_bytes = {6: 1, 7: 2}.get(sizes, 0)
    stated = int.from_bytes(content[end : end + size_bytes], "big") + 1
    end += size_bytes + {12: 1, 13: 2, 14: 2}.get(rates, 0)
    if number < 0 or sizes == 0 or rates == 15 or channels > 10 or depth & 1:
        return None
    if end >= len(content) or _checksum(content[:end]) != content[end]:
        return None
    if not size_bytes:
        stated = 192 if sizes == 1 else 576 << sizes - 2 if sizes < 6 else 256 << sizes - 8
    is_variable = bool(content[1] & 1)
    # Of two channels, each frame has its own way to store them.
    return Header(
        number, stated, is_variable, (is_variable, rates, 1 if channels > 7 else channels, depth)
    )


def _coded_number(content: bytes) -> tuple[int, int]:
    """The number of a header, coded as in UTF-8 but up to 36 bits, and where it ends; -1 for what
    is none."""
    first = content[4]
    ones = 8 - (first ^ 0xFF).bit_length()
    more = content[5 : 4 + ones]
    if ones == 0:
        return first, 5
    if ones == 1 or ones == 8 or len(more) < ones - 1 or any(byte >> 6 != 2 for byte in more):
        return -1, 5
    number = first & 0x7F >> ones
    for byte in more:
        number = number << 6 | byte & 0x3F
    return number, 4 + ones


def _crc8(byte: int) -> int:
    """By the polynomial x^8 + x^2 + x + 1."""
    for _ in range(8):
        byte = (byte << 1 ^ 0x07) & 0xFF if byte & 0x80 else byte << 1
    return byte


CRC8 = bytes(map(_crc8, range(256)))


def _checksum(header: bytes) -> int:
    rest = 0
    for byte in header:
        rest = CRC8[rest ^ byte]
    return rest
