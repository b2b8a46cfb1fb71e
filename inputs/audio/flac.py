"""Raw FLAC by its frames (RFC 9639).

FFmpeg's parser gives a frame whose header is damaged as one packet with its neighbours, and often
without a time; its decoder then loses several for one. But each frame knows its place.
"""

import re
from collections.abc import Iterator
from typing import Any

from antiphon.inputs.audio.places import bytes_at, find

MAGIC, STREAM_INFORMATION = b"fLaC", 34  # bytes of that block
SYNC = re.compile(rb"\xff[\xf8\xf9]")
LONGEST_HEADER = 16  # bytes


class FlacFrames:
    """Of one stream, in order."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        information = bytes(stream.codec_context.extradata or b"")
        # Samples of every frame but the last, where that is fixed; bytes of the largest frame.
        self.samples = int.from_bytes(information[2:4], "big")
        self.largest = int.from_bytes(information[7:10], "big")
        self.next = 0  # the first sample behind all frames so far

    def frames(self, packet: Any) -> list[Any]:
        """Of a packet by FFmpeg, as packets of their own."""
        if not packet.size:
            return [packet]
        if packet.pts == self.next and packet.size <= self.largest:
            self.next += packet.duration
            return [packet]
        return self.split(packet)

    def split(self, packet: Any) -> list[Any]:
        """As `frames`, of one that is damaged. None of those that were there before."""
        import av

        content = bytes(packet)
        frames = list(self._frames(content))
        ends = [*(begin for begin, _, _ in frames[1:]), len(content)]
        pieces = []
        for (begin, start, samples), end in zip(frames, ends, strict=False):
            piece = av.Packet(content[begin:end])
            piece.stream, piece.time_base = self.stream, self.stream.time_base
            piece.pts, piece.duration = start, samples
            pieces.append(piece)
            self.next = start + samples
        return pieces

    def _frames(self, content: bytes) -> Iterator[tuple[int, int, int]]:
        """(offset, first sample, samples) of each frame whose header is whole and in order."""
        behind = self.next
        for sync in SYNC.finditer(content):
            header = _header(content[sync.start() : sync.start() + LONGEST_HEADER])
            if header is not None:
                number, samples = header
                start = number if content[sync.start() + 1] & 1 else number * self.samples
                if start >= behind:
                    behind = start + samples
                    yield sync.start(), start, samples


def last_frame(content: Any, start: int, size: int) -> int:
    """Where the last frame of the recording at `start` begins, which is never too far: that of its
    first frame where this one is damaged, or has no fixed place."""
    information = bytes_at(content, start + 8, STREAM_INFORMATION)
    frames, is_last = start + len(MAGIC), False
    while not is_last and len(block := bytes_at(content, frames, 4)) == 4:
        is_last = bool(block[0] & 0x80)
        frames += 4 + int.from_bytes(block[1:], "big")
    per_frame = int.from_bytes(information[2:4], "big")
    total = int.from_bytes(information[13:18], "big") & (1 << 36) - 1
    number = (total - 1) // per_frame if per_frame else -1
    if not 0 < number < 0x110000 or find(content, MAGIC, frames, size) >= 0:
        return frames
    coded, position = chr(number).encode("utf-8", "surrogatepass"), frames + 4
    while (position := find(content, coded, position, size)) >= 0:
        header = _header(bytes_at(content, position - 4, LONGEST_HEADER))
        if header is not None and header[0] == number:
            return position - 4
        position += 1
    return frames


def _header(content: bytes) -> tuple[int, int] | None:
    """The number of a frame, or of its first sample, and how many it has."""
    if len(content) < 6 or not SYNC.match(content):
        return None
    sizes, rates = content[2] >> 4, content[2] & 15
    first = content[4]
    more = max(0, 7 - (first ^ 0xFF).bit_length())  # as in UTF-8
    number = first & (0x7F >> (more + 1 if more else 0))
    for byte in content[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    end = 5 + more
    size_bytes = {6: 1, 7: 2}.get(sizes, 0)
    stated = int.from_bytes(content[end : end + size_bytes], "big") + 1
    end += size_bytes + {12: 1, 13: 2, 14: 2}.get(rates, 0)
    if sizes == 0 or end >= len(content) or _checksum(content[:end]) != content[end]:
        return None
    if size_bytes:
        return number, stated
    return number, 192 if sizes == 1 else 576 << sizes - 2 if sizes < 6 else 256 << sizes - 8


def _checksum(header: bytes) -> int:
    """CRC-8 of the polynomial x^8 + x^2 + x + 1."""
    rest = 0
    for byte in header:
        rest ^= byte
        for _ in range(8):
            rest = (rest << 1 ^ 0x07) & 0xFF if rest & 0x80 else rest << 1
    return rest
