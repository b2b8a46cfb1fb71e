"""How long a recording is by its header, where FFmpeg reports what is there instead, or guesses.

Programs that stream write a placeholder for the length: 0, -1, or the most that a player takes.
Such a header declares nothing. Raw AMR, ADTS, and MP3 without a Xing or VBRI header have no place
for a length.
"""

import io
from typing import Any

from antiphon.inputs.audio.places import ID3_HEADER, bytes_at, id3_bytes, opened

HEAD = 1 << 16  # bytes that are searched for chunks and for the first frame of an MP3
PLACEHOLDERS = (  # sizes that mean "unknown", less whatever headers the writer has subtracted
    range(0x7FFFF000, 0x80000001),
    range(0xFFFFF000, 0x100000000),
    range((1 << 63) - (1 << 16), 1 << 64),
)
W64_HEADER = 24  # bytes of a chunk's GUID and size, which its size includes
# Containers whose duration FFmpeg takes from a header that states the number of samples.
COUNTED = {"aiff", "flac", "matroska", "mov", "tta", "wv", "ape"}


def declared_seconds(file: str | io.BytesIO, container: Any, stream: Any) -> float | None:
    """The length by the header; 0 where it declares none; None for containers not known here."""
    import av

    formats = set(container.format.name.split(","))
    codec = stream.codec_context
    counted = float((container.duration or 0) / av.time_base)
    if formats & {"wav", "w64", "au", "caf"}:
        place = declared_samples(_head(file))
        size = place[1] if place else 0
        if codec.name.startswith("pcm_") and codec.bit_rate:
            return size * 8 / codec.bit_rate
        # ADPCM comes in blocks with headers of their own; FFmpeg accounts for them in WAV.
        return counted if size and codec.name.startswith("adpcm_") and "wav" in formats else None
    if "mp3" in formats:
        frames = _mp3_frames(_head(file, behind_tag=True))
        samples_per_frame = 1152 if codec.sample_rate >= 32_000 else 576  # by MPEG version
        return frames * samples_per_frame / codec.sample_rate
    return counted if formats & COUNTED else None


def _head(file: str | io.BytesIO, behind_tag: bool = False) -> bytes:
    """The first bytes of a file; with `behind_tag` those behind its ID3 tag. None of a pipe."""
    with opened(file) as content:  # FFmpeg reads on from where it is
        if content is None:
            return b""
        start = id3_bytes(bytes_at(content, 0, ID3_HEADER)) if behind_tag else 0
        return bytes_at(content, start, HEAD)


def declared_samples(head: bytes) -> tuple[int, int] | None:
    """Where the samples begin and their size; None where the header leaves it open."""
    kind = head[:4]
    if kind == b".snd":
        start, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    elif kind == b"caff":
        start, size = _chunk(head, 8, b"data", 4, 8, "big")
        start, size = start + 4, size - 4  # the count of its edits
    elif kind == b"riff":
        start, size = _chunk(head, 40, b"data", 16, 8, "little")
        size -= W64_HEADER
    else:
        start, size = _chunk(head, 12, b"data", 4, 4, "big" if kind == b"RIFX" else "little")
        if kind in (b"RF64", b"BW64"):
            sizes = head.find(b"ds64", 0, 64)
            size = int.from_bytes(head[sizes + 16 : sizes + 24], "little") if sizes > 0 else 0
    return None if start <= 0 or size <= 0 or is_placeholder(size) else (start, size)


def is_placeholder(size: int) -> bool:
    return any(size in unknown for unknown in PLACEHOLDERS)


def _chunk(
    head: bytes, start: int, name: bytes, name_bytes: int, size_bytes: int, order: Any
) -> tuple[int, int]:
    """Where chunk `name` begins, behind its size, and that size; zeros where the head lacks it.

    `start`: where the first chunk begins. `name_bytes`, `size_bytes`: lengths of a chunk's name and
    of its size, which is written in byte order `order`.
    """
    while start + name_bytes + size_bytes <= len(head):
        size_start = start + name_bytes
        size = int.from_bytes(head[size_start : size_start + size_bytes], order)
        if head[start : start + 4] == name:
            return size_start + size_bytes, size
        if name_bytes == 16:  # W64: sizes include their headers; chunks begin at multiples of 8
            start += max(W64_HEADER, size + 7 & ~7)
        else:
            start += name_bytes + size_bytes + size + (size & 1 if size_bytes == 4 else 0)
    return 0, 0


def _mp3_frames(head: bytes) -> int:
    """The number of frames by the Xing, Info or VBRI header, which the first frame may hold instead
    of audio."""
    first_frame = head[:200]
    for name in (b"Xing", b"Info"):
        start = first_frame.find(name)
        if start > 0 and len(head) >= start + 12 and head[start + 7] & 1:
            return int.from_bytes(head[start + 8 : start + 12], "big")
    start = first_frame.find(b"VBRI")
    return int.from_bytes(head[start + 14 : start + 18], "big") if start > 0 else 0
