"""WavPack files by their blocks. FFmpeg finds none behind one whose end is not where it says."""

import re
from dataclasses import dataclass
from typing import Any

from antiphon.inputs.audio.places import FIRST_BLOCK, blocks_from, bytes_at

MAGIC = b"wvpk"
HEADER, BEHIND_SIZE = 32, 8  # bytes of a header, and those before what its size counts
VERSIONS = range(0x402, 0x411)
BEGINNING = re.compile(rb"wvpk.{4}[\x02-\x10]\x04", re.DOTALL)


@dataclass
class WavPackBlocks:
    """The `sound` (start, end) of one recording, which ends at `end`: whole blocks that follow one
    another."""

    sound: list[tuple[int, int]]
    end: int
    is_damaged: bool = False  # whether something else is between them


def blocks_of(content: Any, start: int, size: int) -> WavPackBlocks:
    """Of the recording that begins at `start`. A further one begins anew at sample 0."""
    blocks, past_first = WavPackBlocks([], start), False
    while (block := _block_at(content, blocks.end)) is not None:
        position, (behind, is_first) = blocks.end, block
        if is_first and past_first:
            break
        past_first |= not is_first
        following = behind if behind >= size or _block_at(content, behind) else -1
        if following < 0:
            following = _next_block(content, position + 1, size)
        blocks.is_damaged |= following not in (behind, -1)
        if following < 0 or following >= behind:  # else another begins within it
            begin = position
            if blocks.sound and blocks.sound[-1][1] == position:
                begin, _ = blocks.sound.pop()
            blocks.sound.append((begin, min(behind, size)))
        if following < 0:
            blocks.end = behind
            break
        blocks.end = following
    return blocks


def lacks_its_begin(content: Any, start: int, end: int) -> bool:
    """Whether the first block of the recording at `start` is damaged."""
    sound = blocks_of(content, start, end).sound
    return not sound or sound[0][0] != start


def repaired(content: Any, start: int, end: int) -> bytes | None:
    """The sound blocks of a damaged recording, each of which knows its time; None for others."""
    if bytes_at(content, start, len(MAGIC)) != MAGIC:
        return None
    blocks = blocks_of(content, start, end)
    if not blocks.is_damaged:
        return None
    return b"".join(bytes_at(content, first, behind - first) for first, behind in blocks.sound)


def _block_at(content: Any, position: int) -> tuple[int, bool] | None:
    """Where the block at `position` ends, and whether it is its recording's first."""
    header = bytes_at(content, position, HEADER)
    if len(header) < HEADER or header[:4] != MAGIC:
        return None
    size = int.from_bytes(header[4:8], "little")
    version = int.from_bytes(header[8:10], "little")
    if version not in VERSIONS or not HEADER - BEHIND_SIZE <= size < 1 << 24:
        return None
    return position + BEHIND_SIZE + size, header[10] == 0 and not any(header[16:20])


def _next_block(content: Any, start: int, size: int) -> int:
    for position, block in blocks_from(content, start, size, FIRST_BLOCK):
        for begin in BEGINNING.finditer(block):
            if _block_at(content, position + begin.start()) is not None:
                return position + begin.start()
    return -1
