"""Files by their bytes, at any place."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from antiphon.inputs.media_files import kept_place

ID3_HEADER = 10  # bytes
BLOCK, OVERLAP = 1 << 20, 128  # bytes that are searched at once, and those that two blocks share
FIRST_BLOCK = 1 << 12  # a search that mostly ends soon need not read more


@contextmanager
def opened(file: str | io.BytesIO) -> Iterator[Any]:
    """A file to read at any place; None for a pipe."""
    if isinstance(file, io.BytesIO):
        with kept_place(file):
            yield file
    elif os.path.isfile(file):
        with open(file, "rb") as content:
            yield content
    else:
        yield None


def size_of(file: str | io.BytesIO) -> int:
    """In bytes; 0 for a pipe."""
    return os.path.getsize(file) if isinstance(file, str) else file.getbuffer().nbytes


def bytes_at(content: Any, position: int, count: int) -> bytes:
    content.seek(position)
    read: bytes = content.read(count)
    return read


def id3_bytes(head: bytes) -> int:
    """The size of the ID3v2 tag at `head`; 0 where there is none."""
    if head[:3] != b"ID3" or len(head) < ID3_HEADER:
        return 0
    size = 0
    for byte in head[6:ID3_HEADER]:  # 7 bits each
        size = size << 7 | byte & 0x7F
    return ID3_HEADER + size


def blocks_from(
    content: Any, start: int, end: int, first: int = BLOCK
) -> Iterator[tuple[int, bytes]]:
    """(position, bytes) of overlapping blocks, each twice as long as that before it, from `first`
    to BLOCK bytes."""
    position, length = start, first
    while position < end:
        yield position, bytes_at(content, position, min(length + OVERLAP, end - position))
        position, length = position + length, min(2 * length, BLOCK)


def find(content: Any, text: bytes, start: int, end: int) -> int:
    """Where `text` is next; -1 where it is not."""
    for position, block in blocks_from(content, start, end, FIRST_BLOCK):
        if (offset := block.find(text)) >= 0:
            return position + offset
    return -1
