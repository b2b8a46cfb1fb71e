"""Plain PCM in WAV, straight from its bytes: the usual form of recordings that are sent.

FFmpeg reads it too, to the same samples. But it searches 16-bit ones for other codecs, which was 8
of the 13 ms of CPU for 4.7 s at 16 kHz. And it gives them as packets of 1024 samples or so: PyAV
lets go of the interpreter's lock for each, and has it back up to 5 ms later where other threads are
busy. Beside one such thread a file took over 100 ms, and takes 1 ms here. A server with 32 callers
heard a third as many recordings as when it was given arrays.

Only files that are regular throughout are read here, by the same rules as all others.
"""

import io
import re
from typing import Any, NamedTuple

import numpy as np

from antiphon.inputs.audio.arrays import MAX_CHANNELS, PIECE
from antiphon.inputs.audio.declared_length import is_placeholder
from antiphon.inputs.audio.limits import MAX_SECONDS, RATES, too_long
from antiphon.inputs.audio.places import bytes_at, opened
from antiphon.inputs.audio.recording import END_TOLERANCE, Recording
from antiphon.inputs.audio.sound import Sound

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
# By tag and bits. 24 bits are no type of numpy's: they become the upper ones of 32.
TYPES = {
    (PCM, 8): "u1",
    (PCM, 16): "<i2",
    (PCM, 24): "<i4",
    (PCM, 32): "<i4",
    (FLOAT, 32): "<f4",
    (FLOAT, 64): "<f8",
}
# Sizes of the format chunk: alone; with an empty extension; with that of EXTENSIBLE, whose tag is
# the beginning of a GUID.
ALONE, EMPTY, EXTENDED = 16, 18, 40
GUID = bytes.fromhex("000000001000800000aa00389b71")
# Chunks that say nothing about the samples, and from which size they are whole.
OTHER_CHUNKS = {
    b"LIST": 4,
    b"fact": 4,
    b"PEAK": 0,
    b"bext": 602,
    b"JUNK": 0,
    b"junk": 0,
    b"PAD ": 0,
    b"FLLR": 0,
}
MOST_CHUNKS = 100
# What FFmpeg finds in 16-bit PCM: bursts of IEC 61937 (AC-3 and others) and frames of DTS,
OTHERS = (
    b"\x72\xf8\x1f\x4e",
    b"\x7f\xfe\x80\x01",
    b"\xfe\x7f\x01\x80",
    b"\x1f\xff\xe8\x00",
    b"\xff\x1f\x00\xe8",
)
# and at its begin also those of AC-3 and MPEG, and LATM.
BEGINS_OF_OTHERS = re.compile(rb"\x0bw|w\x0b|ID3|V[\xe0-\xff]|\xff[\xe2-\xe5\xf0-\xf5\xf8-\xfd]")
SEARCHED = 1 << 20  # bytes, as in FFmpeg, for a begin that is not 0
LONGEST_BURST = 1 << 15  # bytes: there is one of theirs within as many
PACKETS_A_SECOND = 10  # at most: the number of a packet's samples is a power of 2


class Layout(NamedTuple):
    """Of the samples in a file. `length`: per channel."""

    start: int
    length: int
    channels: int
    rate: int
    bits: int
    dtype: str

    @property
    def block(self) -> int:
        """Bytes of one sample in all channels."""
        return self.channels * self.bits // 8

    @property
    def packet(self) -> int:
        """Samples of one of FFmpeg's packets: losses and channels that cancel are told by them."""
        return 1 << (self.rate // PACKETS_A_SECOND).bit_length() - 1

    @property
    def piece(self) -> int:
        """Samples that are read at once: whole packets."""
        return max(1, PIECE // self.channels // self.packet) * self.packet


def read_pcm(file: str | io.BytesIO, name: str, rate: int) -> Sound | None:
    """A WAV file as `read_file` reads it; None for what must be read by FFmpeg."""
    with opened(file) as content:
        layout = None if content is None else _layout(content)
        if layout is None or _holds_another_codec(content, layout):
            return None
        seconds = layout.length / layout.rate
        if seconds > MAX_SECONDS:
            raise too_long(name)
        recording = Recording(name, rate, seconds, is_pcm=True)
        for first in range(0, layout.length, layout.piece):
            samples = _samples(content, layout, first, min(layout.piece, layout.length - first))
            if not samples.shape[1]:  # the file was cut in the meantime
                break
            recording.add_frames(samples, layout.packet, layout.rate)
        recording.end_part(seconds, END_TOLERANCE)
        return recording.finish()


def _layout(content: Any) -> Layout | None:
    """None for all but a RIFF file in which every chunk is whole, and nothing else is."""
    size = content.seek(0, io.SEEK_END)
    head = bytes_at(content, 0, 12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE" or _number(head[4:8]) + 8 != size:
        return None
    form, position = b"", 12
    start = samples = 0
    for _ in range(MOST_CHUNKS):
        name, length = (head := bytes_at(content, position, 8))[:4], _number(head[4:])
        position += 8
        if name == b"fmt " and not form and not start and length <= EXTENDED:
            form = bytes_at(content, position, length)
        elif name == b"data" and form and not start and not is_placeholder(length):
            start, samples = position, length
        elif length < OTHER_CHUNKS.get(name, length + 1):
            return None
        position += length
        if position >= size:  # writers leave out the last chunk's padding, or do not count it
            break
        position += length % 2
    return _of_format(form, start, samples) if start and position == size else None


def _of_format(form: bytes, start: int, size: int) -> Layout | None:
    """Of `size` bytes of samples at `start` with this format chunk."""
    if len(form) not in (ALONE, EMPTY, EXTENDED):
        return None
    tag, channels, block, bits = (_number(form[n : n + 2]) for n in (0, 2, 12, 14))
    rate, bytes_per_second = _number(form[4:8]), _number(form[8:12])
    if _number(form[16:18]) != max(0, len(form) - EMPTY):
        return None
    if len(form) == EXTENDED:
        if tag != EXTENSIBLE or form[26:] != GUID or _number(form[18:20]) != bits:
            return None
        tag = _number(form[24:26])
    dtype = TYPES.get((tag, bits))
    if dtype is None or not 0 < channels <= MAX_CHANNELS or not RATES[0] <= rate <= RATES[1]:
        return None
    layout = Layout(start, size // block if block else 0, channels, rate, bits, dtype)
    regular = block == layout.block and bytes_per_second == rate * block and size % block == 0
    return layout if regular and layout.length else None


def _holds_another_codec(content: Any, layout: Layout) -> bool:
    if layout.dtype != TYPES[PCM, 16]:
        return False
    size = min(layout.length * layout.block, SEARCHED)
    head = bytes_at(content, layout.start, size).lstrip(b"\0")[:LONGEST_BURST]
    return BEGINS_OF_OTHERS.match(head) is not None or any(text in head for text in OTHERS)


def _samples(content: Any, layout: Layout, first: int, count: int) -> np.ndarray:
    """Samples [channels, count] from sample `first`; fewer if the file was cut in the meantime."""
    blocks = bytes_at(content, layout.start + first * layout.block, count * layout.block)
    blocks = blocks[: len(blocks) // layout.block * layout.block]
    if layout.bits == 24:
        wide = np.zeros((len(blocks) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(blocks, np.uint8).reshape(-1, 3)
        blocks = wide.tobytes()
    return np.frombuffer(blocks, layout.dtype).reshape(-1, layout.channels).T


def _number(text: bytes) -> int:
    return int.from_bytes(text, "little")
