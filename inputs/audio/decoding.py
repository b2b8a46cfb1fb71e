"""Packets of one recording to frames: what can't be decoded, and what is not there, is told."""

from collections.abc import Iterator
from typing import Any

from antiphon.inputs.audio.amr import AmrFrames
from antiphon.inputs.audio.flac import FlacFrames
from antiphon.inputs.audio.recording import Recording

MAX_READ_ERRORS = 100  # of a container in a row; the rest counts as unreadable then
GAP = 0.1  # seconds between the times of two packets that count as a loss
# Containers whose headers and packets state times. Others (MP3, ADTS) leave them to estimates.
WITH_TIMES = {"matroska", "mov", "ogg", "flac", "wav", "w64", "aiff", "caf", "wv", "tta"}
COUNTING = ("flac", "wv")  # in which every packet states the number of its first sample
SHORT_GAP = 0.001  # seconds that count as a loss in these
AMR = ("amr", "amrnb", "amrwb")


class Decoding:
    """Adds to `recording` all that can be decoded of a container, and silence for losses up to
    `limit` seconds."""

    def __init__(
        self,
        container: Any,
        stream: Any,
        recording: Recording,
        limit: float,
        begins_at_0: bool,
    ) -> None:
        """`begins_at_0`: whether a loss precedes a first packet with another time. Else the
        recording was cut from a longer one."""
        self.recording, self.limit = recording, limit
        self._packets = _packets(container, stream)
        self._time_base = float(stream.time_base or 0)  # seconds; a fraction costs more, each time
        self._states_times = states_times(container)
        codec, kind = stream.codec_context.name, container.format.name
        self._amr = AmrFrames(codec) if kind in AMR else None
        self._flac = FlacFrames(stream, begins_at_0) if kind == "flac" else None
        self._gap = SHORT_GAP if kind in COUNTING else GAP
        # When the packet before ends.
        self._last_end: float | None = 0.0 if begins_at_0 else None

    def run(self) -> None:
        import av

        unreadable = (av.FFmpegError, NotImplementedError)
        try:
            for packet in self._packets:
                if self._flac is None:
                    self._take(packet, unreadable)
                else:
                    for frame in self._flac.frames(packet):
                        self._take(frame, unreadable)
        except av.error.EOFError:
            return

    def _take(self, packet: Any, unreadable: tuple[type[Exception], ...]) -> None:
        recording = self.recording
        seconds = self._follow(packet)
        kind = "speech" if self._amr is None else self._amr.kind(packet)
        if kind == "pause":
            recording.pause(seconds)
            return
        if kind == "junk":
            recording.skip(seconds, packet.size)
            return
        try:
            frames = packet.decode()
        except EOFError:  # FFmpeg's is one too
            raise
        except unreadable:  # the other packets decode without it
            is_whole = self._states_times and not packet.is_corrupt  # else it was cut off
            recording.skip(seconds, None if is_whole else packet.size)
            return
        recording.num_bytes += packet.size
        for frame in frames:
            if frame.is_corrupt and not packet.is_corrupt:  # its checksum is wrong
                recording.skip(seconds)
            else:
                recording.add(frame)

    def _follow(self, packet: Any) -> float | None:
        """The seconds of a packet; what is missing before it is told."""
        ticks, time_base = packet.duration, self._time_base
        seconds = ticks * time_base if ticks and time_base else None
        if not self._states_times:
            return seconds
        ticks = packet.pts
        start = None if ticks is None or not time_base else ticks * time_base
        gap = 0.0 if self._last_end is None or start is None else start - self._last_end
        if gap > self._gap:
            self.recording.lose(gap, "missing", self.limit)
        self._last_end = None if start is None or seconds is None else start + seconds
        return seconds


def states_times(container: Any) -> bool:
    return bool(WITH_TIMES & set(container.format.name.split(",")))


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """All packets that a container gives. The last one is empty and drains the decoder."""
    import av

    num_errors = 0
    while num_errors < MAX_READ_ERRORS:
        try:
            for packet in container.demux(stream):
                num_errors = 0
                yield packet
            return
        except av.error.EOFError:
            return
        except av.FFmpegError:  # most containers go on behind the error when asked again
            num_errors += 1
    # The decoder may still hold one frame, which is lost.
