"""Where a recording ends by its own header: what is behind is another one, a tag, or junk."""

from dataclasses import dataclass
from typing import Any

from antiphon.inputs.audio import flac, ogg, wavpack
from antiphon.inputs.audio.declared_length import HEAD, declared_samples, is_placeholder
from antiphon.inputs.audio.places import ID3_HEADER, bytes_at, id3_bytes

ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # the first of MP4 and MOV
EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"  # Matroska and WebM
TTA_HEADER, TTA_SAMPLES = 22, 256 / 245  # bytes; seconds of a frame
FIRST_BYTES = 256  # of a recording, which tell what it is
LAYER = 0x06  # bits of an MPEG frame's second byte: 0 in ADTS
# Both have tags amid their frames, as of the pieces that a stream was sent in; FFmpeg reads on
# behind them. The others stand in frames of MPEG.
OF_ADTS, OF_MPEG = (b"ID3",), (b"ID3", b"Xing", b"Info")


@dataclass(frozen=True)
class End:
    """is_exact: the recording has ended at `position`. Else it may go on there, as it has no
    length, and only another one's beginning ends it. `own`: what others begin with and this one may
    hold."""

    position: int
    is_exact: bool = True
    own: tuple[bytes, ...] = ()


def end_of(content: Any, start: int, size: int) -> End:
    """Of the recording that begins at `start` of a file of `size` bytes."""
    head = bytes_at(content, start, FIRST_BYTES)
    end = size
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b".snd", b"caff"):
        end = _end_of_samples(bytes_at(content, start, HEAD), start, size)
    elif head[:4] == b"FORM":
        end = _behind(start + 8, int.from_bytes(head[4:8], "big"), size)
    elif head[:4] == b"TTA1":
        end = _end_of_tta(content, start, head)
    elif head[:4] == EBML:
        end = _end_of_matroska(head, start, size)
    elif head[4:8] in ATOMS:
        end = _end_of_atoms(content, start, size)
    elif head[:4] == ogg.PAGE:
        end = ogg.end_of_pages(content, start, size)
    elif head[:4] == wavpack.MAGIC:
        end = wavpack.blocks_of(content, start, size).end
    else:
        return _begin_of_frames(content, start, size)
    return End(min(end, size)) if end > start else End(size)  # its first words make no sense


def lacks_its_begin(content: Any, start: int, end: int) -> bool:
    """Whether damage precedes the first sound of a recording whose frames state their times. Else
    one that does not begin at 0 s was cut from a longer one, or is of a station that had begun
    before."""
    start += id3_bytes(bytes_at(content, start, ID3_HEADER))
    magic = bytes_at(content, start, 4)
    if magic == flac.MAGIC:
        return flac.lacks_its_begin(content, start)
    if magic == wavpack.MAGIC:
        return wavpack.lacks_its_begin(content, start, end)
    return magic == ogg.PAGE and ogg.lacks_its_begin(content, start, end)


def _begin_of_frames(content: Any, start: int, size: int) -> End:
    """Of what has no length; what is before its frames may hold pictures and anything else."""
    start += id3_bytes(bytes_at(content, start, ID3_HEADER))
    head = bytes_at(content, start, 8)
    if head[:4] == flac.MAGIC:
        return End(flac.last_frame(content, start, size), is_exact=False)
    if head[:5] == b"#!AMR" or head[:2] == b"\x0bw":
        return End(start + 2, is_exact=False)
    if head[:1] == b"\xff" and head[1:2] >= b"\xe0":
        return End(start + 2, is_exact=False, own=OF_MPEG if head[1] & LAYER else OF_ADTS)
    return End(size)


def _behind(start: int, length: int, size: int) -> int:
    """The end of `length` bytes from `start`, which a header states; the file's, if that is not to
    be believed."""
    return size if not length or is_placeholder(length) else min(start + length, size)


def _end_of_samples(head: bytes, start: int, size: int) -> int:
    """Of WAV, W64, AU and CAF. A RIFF header may count what is behind the samples, or be wrong."""
    place = declared_samples(head)
    if place is None or head[8:12] == b"AVI ":
        return size
    end = start + sum(place)
    if head[:4] in (b"RIFF", b"RIFX"):
        whole = int.from_bytes(head[4:8], "big" if head[:4] == b"RIFX" else "little") + 8
        if start + whole <= size:
            end = max(end, start + whole)
    return end


def _end_of_tta(content: Any, start: int, head: bytes) -> int:
    rate, samples = (int.from_bytes(head[n : n + 4], "little") for n in (10, 14))
    per_frame = int(rate * TTA_SAMPLES)
    count = -(-samples // per_frame) if per_frame else 0
    table = bytes_at(content, start + TTA_HEADER, 4 * count)
    sizes = (int.from_bytes(table[n : n + 4], "little") for n in range(0, len(table), 4))
    return start + TTA_HEADER + len(table) + 4 + sum(sizes)


def _end_of_matroska(head: bytes, start: int, size: int) -> int:
    """Behind its segment, which states its length unless it was streamed."""
    length, width = _ebml_number(head, 4)
    segment = 4 + width + length
    if head[segment : segment + 4] != SEGMENT:
        return size
    length, width = _ebml_number(head, segment + 4)
    is_open = length == (1 << 7 * width) - 1
    return size if is_open else _behind(start + segment + 4 + width, length, size)


def _ebml_number(head: bytes, position: int) -> tuple[int, int]:
    """A number and its width in bytes: as many zero bits stand before its first."""
    first = head[position] if position < len(head) else 0
    width = 9 - first.bit_length()
    number = int.from_bytes(head[position : position + width], "big")
    return number & (1 << 7 * width) - 1, width


def _end_of_atoms(content: Any, start: int, size: int) -> int:
    """Of MP4 and MOV: where no further atom is, or where the next file's first is."""
    position = start
    while position < size:
        atom = bytes_at(content, position, 16)
        length, name = int.from_bytes(atom[:4], "big"), atom[4:8]
        if length == 1:
            length = int.from_bytes(atom[8:16], "big")
        if not name.isascii() or not name.isalnum() or (name == b"ftyp" and position > start):
            return position
        if length < 8:  # 0: to the end of the file
            return size if length == 0 else position
        position += length
    return position
