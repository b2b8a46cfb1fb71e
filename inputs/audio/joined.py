"""Files that several recordings were joined to (`cat a.wav b.flac`), and what is behind them.

FFmpeg reads the first recording of such a file, and of some formats those like it. So they are
found before, and each is read by itself.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from antiphon.inputs.audio.ends import End, end_of, lacks_its_begin
from antiphon.inputs.audio.places import FIRST_BLOCK, blocks_from, bytes_at, id3_bytes, opened
from antiphon.inputs.audio.wavpack import repaired

# What recordings begin with: a text, how far before it they may begin, and what must be there.
BEGINNINGS = tuple(
    (text, (before,), re.compile(pattern, re.DOTALL))
    for text, before, pattern in (
        (b"RIFF", 0, rb"RIFF....WAVE"),
        (b"RF64", 0, rb"RF64....WAVE"),
        (b"riff\x2e\x91\xcf\x11", 0, rb"riff"),
        (b"FORM", 0, rb"FORM....AIF[FC]"),
        (b"caff\x00\x01", 0, rb"caff"),
        (b".snd\x00", 0, rb"\.snd\x00{2}.{8}.{4}\x00{3}[\x01-\x1b]"),
        (b"fLaC", 0, rb"fLaC[\x00\x80]\x00\x00\x22"),
        (b"TTA1", 0, rb"TTA1[\x01\x02]\x00"),
        (b"wvpk", 0, rb"wvpk.{4}[\x02-\x10]\x04\x00.{5}\x00{4}"),
        (b"OggS\x00\x02", 0, rb"OggS"),
        (b"\x1aE\xdf\xa3", 0, rb"\x1aE\xdf\xa3.{1,48}(?:webm|matroska)"),
        (b"ftyp", 4, rb"\x00{3}[\x08-\x80]ftyp"),
        (b"#!AMR", 0, rb"#!AMR(?:-WB)?\n"),
    )
)
BEGINNING = re.compile(b"|".join(pattern.pattern for _, _, pattern in BEGINNINGS), re.DOTALL)
LEADING_ZEROS = 3  # of MP4, which are no padding
# A header may be the first frame of MPEG, at one of three distances by its version and channels.
MPEG = (
    (b"ID3", (0,), re.compile(rb"ID3[\x02-\x04].{2}[\x00-\x7f]{4}", re.DOTALL)),
    *((text, (36, 21, 13), re.compile(rb"\xff[\xe2-\xfe]")) for text in (b"Xing", b"Info")),
)
# Frames of MP3, ADTS and AC-3 alone: too little, but for where a recording has just ended.
FRAME = re.compile(rb"\x00?(?=\xff[\xe2-\xfe]|\x0bw)")
NAMED = re.compile(rb"[\w \xa9-]{4}")  # chunks of RIFF and its like have such names
TAG_BYTES, FOOTER_BYTES = 128, 32  # of ID3v1, and at either end of an APE tag
PADDING = re.compile(rb"\0+|\xff{16,}")
HEAD_BYTES = 64  # of a tag, a chunk or a recording, which tell what it is
PADDING_BYTES = 1 << 16  # that are looked at together
MOST_RECORDINGS = 1000  # each is opened by itself, so a few bytes would cost a lot of time


@dataclass(frozen=True)
class Joined:
    """Where the recordings of a file begin and end, and the size of what is behind each, if that is
    neither a tag nor padding: behind the last one of recordings too, if there are too many."""

    spans: list[tuple[int, int]]
    unread: list[int]


def recordings_in(file: str | io.BytesIO) -> Joined:
    with opened(file) as content:
        if content is None:
            return Joined([(0, 0)], [0])
        spans: list[tuple[int, int]] = []
        unread: list[int] = []
        start: int | None = 0
        size = content.seek(0, io.SEEK_END)
        while start is not None and len(spans) < MOST_RECORDINGS:
            end = end_of(content, start, size)
            following = _next_beginning(content, end, size)
            last = size if following is None else following
            spans.append((start, end.position if end.is_exact else last))
            unread.append(max(0, last - _behind_tags(content, spans[-1][1], last)))
            start = following
        if start is not None:
            unread[-1] += size - start
        return Joined(spans, unread)


@dataclass(frozen=True)
class Part:
    """One recording as a file of its own; WavPack without what is damaged."""

    file: str | io.BytesIO
    lacks_its_begin: bool
    unread: int  # bytes behind it that are no part of any


def parts_of(file: str | io.BytesIO, joined: Joined) -> Iterator[Part]:
    for (start, end), unread in zip(joined.spans, joined.unread, strict=True):
        part, lacks = None, False
        with opened(file) as content:
            if content is not None:
                lacks = lacks_its_begin(content, start, end)
                part = repaired(content, start, end)
                if part is None and len(joined.spans) > 1:
                    part = bytes_at(content, start, end - start)
        if part is None and isinstance(file, io.BytesIO):
            file.seek(0)
        yield Part(file if part is None else io.BytesIO(part), lacks, unread)


def _next_beginning(content: Any, end: End, size: int) -> int | None:
    """Of the recording behind one that ends at `end`."""
    start = end.position
    if end.is_exact:
        start = _behind_tags(content, start, size)
        if frame := FRAME.match(bytes_at(content, start, 3)):
            return start + frame.end()
        start = max(end.position, start - LEADING_ZEROS)
    for position, block in blocks_from(content, start, size, FIRST_BLOCK):
        best = len(block)
        for text, befores, pattern in BEGINNINGS + MPEG:
            if text not in end.own:
                best = _first(block, text, befores, pattern, best)
        if best < len(block):
            return position + best
    return None


def _first(
    block: bytes, text: bytes, befores: tuple[int, ...], pattern: re.Pattern[bytes], best: int
) -> int:
    """Where a recording begins with `text`, if that is before `best`; else `best`."""
    end = best + max(befores) + len(text)
    offset = block.find(text, 0, end)
    while offset >= 0:
        for before in befores:
            if 0 <= offset - before < best and pattern.match(block, offset - before):
                return offset - before
        offset = block.find(text, offset + 1, end)
    return best


def _behind_tags(content: Any, position: int, size: int) -> int:
    """Where what is behind a recording is neither padding, nor a tag, nor a chunk of its own."""
    while position < size and (head := bytes_at(content, position, HEAD_BYTES)):
        if BEGINNING.match(head):
            return position
        if padding := PADDING.match(head):
            if padding.end() == HEAD_BYTES:
                padding = PADDING.match(bytes_at(content, position, PADDING_BYTES)) or padding
            position += padding.end()
        elif length := _tag_bytes(head) or _chunk_bytes(head, size - position):
            position += length
        else:
            return size if _ends_with_ape_tag(content, size) else position
    return min(position, size)


def _ends_with_ape_tag(content: Any, size: int) -> bool:
    """Whether a tag ends there, which may have no header."""
    start = size - FOOTER_BYTES
    return start >= 0 and bytes_at(content, start, 8) == b"APETAGEX"


def _tag_bytes(head: bytes) -> int:
    """The size of the tag at `head`; 0 where there is none."""
    if head[:3] == b"TAG":
        return TAG_BYTES
    if head[:8] == b"APETAGEX":
        return FOOTER_BYTES + int.from_bytes(head[12:16], "little")
    return id3_bytes(head)


def _chunk_bytes(head: bytes, longest: int) -> int:
    """The size of the chunk at `head`, in either byte order; 0 where none has such a name or
    such a size."""
    if not NAMED.match(head):
        return 0
    lengths = (8 + int.from_bytes(head[4:8], order) for order in ("little", "big"))
    return next((length + length % 2 for length in lengths if length <= longest), 0)
