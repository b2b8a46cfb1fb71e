"""Frames of AMR files (RFC 4867, section 5): speech, pauses, and junk that resembles a frame.

Junk has no visible end: each of its bytes may be taken for a frame of 20 ms.
"""

from typing import Any, Literal

PADDING, GOOD, KIND = 0x83, 0x04, 0x78  # bits of a frame's first byte; padding bits are 0
# Kinds of frames that FFmpeg's decoder does not read: silence descriptors, and frames not sent.
PAUSES = {"amrnb": (8, 15), "amr_nb": (8, 15), "amrwb": (9, 15), "amr_wb": (9, 15)}


class AmrFrames:
    """Tells the packets of one raw AMR file apart by their first byte."""

    def __init__(self, codec: str) -> None:
        self.pauses = PAUSES[codec]
        # Whether this file's encoder marks good frames; unmarked ones are damaged then.
        self.marks_good = False

    def kind(self, packet: Any) -> Literal["speech", "pause", "junk"]:
        if not packet.size:
            return "speech"
        byte = memoryview(packet)[0]
        if byte & PADDING or (self.marks_good and not byte & GOOD):
            return "junk"
        self.marks_good |= bool(byte & GOOD)
        return "pause" if (byte & KIND) >> 3 in self.pauses else "speech"
