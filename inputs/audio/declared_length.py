"""How long a recording is by its header, where FFmpeg keeps to what is there or guesses.

Programs that stream write a placeholder for the length: 0, -1, or the most that a player takes.
Then nothing is declared. Raw AMR, ADTS, and MP3 without a Xing or VBRI header have no place for it.
"""

import io
from typing import Any

HEAD = 1 << 16  # bytes that are searched for chunks and for the first frame of an MP3
PLACEHOLDERS = (  # sizes that mean "unknown", less whatever headers the writer has subtracted
    range(0x7FFFF000, 0x80000001),
    range(0xFFFFF000, 0x100000000),
    range((1 << 63) - (1 << 16), 1 << 64),
)
W64_HEADER = 24  # bytes of a chunk's GUID and size, which count in its size
# Containers whose duration FFmpeg takes from a header that says how many samples there are.
COUNTED = {"aiff", "flac", "matroska", "mov", "tta", "wv", "ape"}


def declared_seconds(file: str | io.BytesIO, container: Any, stream: Any) -> float | None:
    """By the header. 0 where it says nothing; None where this is no container that is read here."""
    import av

    names = set(container.format.name.split(","))
    codec = stream.codec_context
    counted = float((container.duration or 0) / av.time_base)
    if names & {"wav", "w64", "au", "caf"}:
        size = _declared_bytes(_head(file, HEAD)) or 0
        if codec.name.startswith("pcm_") and codec.bit_rate:
            return size * 8 / codec.bit_rate
        # In blocks with headers of their own: FFmpeg counts them in WAV.
        return counted if size and codec.name.startswith("adpcm_") and "wav" in names else None
    if "mp3" in names:
        frames = _mp3_frames(_head(file, HEAD, behind_tag=True))
        samples = 1152 if codec.sample_rate >= 32_000 else 576  # of a frame, by version
        return frames * samples / codec.sample_rate
    return counted if names & COUNTED else None


def _head(file: str | io.BytesIO, count: int, behind_tag: bool = False) -> bytes:
    """The first bytes; those behind an ID3 tag."""
    if isinstance(file, io.BytesIO):
        position = file.tell()  # FFmpeg reads on from there
        head = _read_head(file, count, behind_tag)
        file.seek(position)
        return head
    with open(file, "rb") as opened:
        return _read_head(opened, count, behind_tag) if opened.seekable() else b""


def _read_head(opened: Any, count: int, behind_tag: bool) -> bytes:
    opened.seek(0)
    tag, length = opened.read(10), 0
    if behind_tag and tag[:3] == b"ID3" and len(tag) == 10:
        for byte in tag[6:10]:  # 7 bits each
            length = length << 7 | byte & 0x7F
        length += 10
    opened.seek(length)
    content: bytes = opened.read(count)
    return content


def _declared_bytes(head: bytes) -> int | None:
    """Of the samples; None where the header leaves it open."""
    kind = head[:4]
    if kind == b".snd":
        size = int.from_bytes(head[8:12], "big")
    elif kind == b"caff":
        size = _chunk(head, 8, b"data", 4, 8, "big") - 4  # less the count of its edits
    elif kind == b"riff":
        size = _chunk(head, 40, b"data", 16, 8, "little") - W64_HEADER
    elif kind in (b"RF64", b"BW64"):
        at = head.find(b"ds64", 0, 64)
        size = int.from_bytes(head[at + 16 : at + 24], "little") if at > 0 else 0
    else:
        order = "big" if kind == b"RIFX" else "little"
        size = _chunk(head, 12, b"data", 4, 4, order)
    return None if size <= 0 or any(size in unknown for unknown in PLACEHOLDERS) else size


def _chunk(head: bytes, at: int, name: bytes, name_size: int, size_size: int, order: Any) -> int:
    """The size that the chunk `name` states, 0 where it is not in the head."""
    while at + name_size + size_size <= len(head):
        size = int.from_bytes(head[at + name_size : at + name_size + size_size], order)
        if head[at : at + 4] == name:
            return size
        if name_size == 16:  # W64: sizes with their headers, at multiples of 8 bytes
            at += max(W64_HEADER, size + 7 & ~7)
        else:
            at += name_size + size_size + size + (size & 1 if size_size == 4 else 0)
    return 0


def _mp3_frames(head: bytes) -> int:
    """Of a Xing, Info or VBRI header, which the first frame may hold instead of sound."""
    start = head[:200]
    for name in (b"Xing", b"Info"):
        at = start.find(name)
        if at > 0 and len(head) >= at + 12 and head[at + 7] & 1:
            return int.from_bytes(head[at + 8 : at + 12], "big")
    at = start.find(b"VBRI")
    return int.from_bytes(head[at + 14 : at + 18], "big") if at > 0 else 0
