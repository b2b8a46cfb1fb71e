"""Ogg files by their pages (RFC 3533)."""

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from antiphon.inputs.audio.places import bytes_at, find

PAGE = b"OggS"
HEADER, LONGEST_HEADER = 27, 27 + 255  # bytes, before and with the sizes of a page's segments
FIRST_PAGE = 0x02  # flag in a page's header, byte 5: a stream begins here
LAST_PAGES = 1000  # where all of these are damaged, so may be those before
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # zlib takes bits that way


def end_of_pages(content: Any, start: int, size: int) -> int:
    """Where the recording that begins at `start` ends: behind its last undamaged page, or where a
    further one begins, as in recorded radio. What is damaged amid pages belongs to it."""
    pages: deque[tuple[int, int]] = deque(maxlen=LAST_PAGES)
    is_begun = False
    for position, behind, header in _pages(content, start, size):
        is_first = bool(header[5] & FIRST_PAGE)
        if is_first and is_begun:
            return position
        if behind > size:  # it was cut off there
            return size
        is_begun |= not is_first
        pages.append((position, behind))
    for position, behind in reversed(pages):
        if _is_whole(bytes_at(content, position, behind - position)):
            return behind
    return size


def lacks_its_begin(content: Any, start: int, size: int) -> bool:
    """Whether damage precedes the first page with sound of the recording at `start`."""
    expected = start
    for position, behind, header in _pages(content, start, size):
        if position != expected or not _is_whole(bytes_at(content, position, behind - position)):
            return True
        if int.from_bytes(header[6:14], "little", signed=True) > 0:
            return False
        expected = behind
    return False


def _pages(content: Any, start: int, size: int) -> Iterator[tuple[int, int, bytes]]:
    """(position, end, header) of each page that begins before `size`, damaged ones too."""
    position = start
    while position < size:
        header = bytes_at(content, position, LONGEST_HEADER)
        behind = position + HEADER
        if header[:4] == PAGE and len(header) > HEADER:
            behind += header[26] + sum(header[HEADER : HEADER + header[26]])
            if behind <= size or find(content, PAGE, position + 1, size) < 0:
                yield position, behind, header
                position = behind
                continue
        if (position := find(content, PAGE, position + 1, size)) < 0:
            return


def _is_whole(page: bytes) -> bool:
    """Whether its checksum is right: CRC-32 with the highest bit first, of a page with zeros in its
    place."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
    checksum = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return checksum.to_bytes(4, "little").translate(REVERSED)[::-1] == page[22:26]
