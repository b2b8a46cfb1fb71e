"""Audio files of any container and codec that PyAV reads. All that can be decoded is kept."""

import io
import logging
import os
from collections.abc import Iterator
from typing import Any

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.amr import AmrFrames
from antiphon.inputs.audio.declared_length import declared_seconds
from antiphon.inputs.audio.limits import MAX_SECONDS, too_long
from antiphon.inputs.audio.ogg import next_stream
from antiphon.inputs.audio.recording import Recording
from antiphon.inputs.audio.sound import Sound
from antiphon.inputs.media_files import open_media

logger = logging.getLogger(__name__)

MAX_READ_ERRORS = 100  # of a container in a row; the rest counts as unreadable then
GAP = 0.1  # seconds between the times of two packets that count as a loss
# Containers whose headers and packets state times. Others (MP3, ADTS) leave them to estimates.
WITH_TIMES = {"matroska", "mov", "ogg", "flac", "wav", "w64", "aiff", "caf"}
AMR = ("amr", "amrnb", "amrwb")
LEANEST = 60.0  # bytes per second, of speech codecs that send nothing in pauses


def read_file(file: str | io.BytesIO, name: str, rate: int) -> Sound:
    """The best audio stream of a file as mono float32 at `rate` Hz. Raises AudioError."""
    import av

    try:
        with open_media(file) as container:
            stream = _audio_stream(container, name)
            seconds = _stated_seconds(container, stream, _size(file))
            if seconds > MAX_SECONDS:
                raise too_long(name)
            is_pcm = stream.codec_context.name.startswith("pcm_")
            recording = Recording(name, rate, seconds, is_pcm)
            declared = declared_seconds(file, container, stream)
            if declared is None:
                declared = seconds if _states_times(container) else 0.0
            broken_at = _decode(container, stream, recording, seconds)
        chained = None if broken_at is None else next_stream(file, broken_at)
        if chained is None:
            return recording.finish(declared)
        _decode_chain(chained, recording)
        return recording.finish(0.0)
    except av.FFmpegError as error:
        raise AudioError(f"{name}: not readable as audio ({error.strerror})") from error


def _audio_stream(container: Any, name: str) -> Any:
    stream = container.streams.best("audio")
    if stream is None:
        raise AudioError(f"{name}: holds no audio stream")
    return stream


def _size(file: str | io.BytesIO) -> int:
    """In bytes; 0 for a pipe."""
    return os.path.getsize(file) if isinstance(file, str) else file.getbuffer().nbytes


def _decode_chain(file: io.BytesIO | None, recording: Recording) -> None:
    """Decodes the further streams of a chained Ogg file, where FFmpeg stops."""
    import av

    while file is not None:
        try:
            with open_media(file) as container:
                stream = _audio_stream(container, recording.name)
                broken_at = _decode(container, stream, recording, 0.0)
        except (av.FFmpegError, AudioError):  # the streams before it have been decoded
            logger.warning("%s: a part of this chained Ogg file can't be read", recording.name)
            broken_at = 0
        file = None if broken_at is None else next_stream(file, broken_at)


def _decode(container: Any, stream: Any, recording: Recording, limit: float) -> int | None:
    """Adds to `recording` all that can be decoded, and silence for losses up to `limit` seconds.

    Returns None at the end of the file, else the byte position of the last packet before reading
    broke off.
    """
    import av

    last_end: float | None = None  # when the packet before ends
    packets, states_times = _Packets(container, stream), _states_times(container)
    amr = AmrFrames(stream.codec_context.name) if container.format.name in AMR else None
    for packet in packets:
        start, seconds = _seconds(packet.pts, packet), _seconds(packet.duration or None, packet)
        gap = 0.0 if last_end is None or start is None else start - last_end
        if gap > GAP and states_times:
            recording.lose(gap, "missing", limit)
        last_end = None if start is None or seconds is None else start + seconds
        kind = "speech" if amr is None else amr.kind(packet)
        if kind == "pause":
            recording.pause(seconds)
            continue
        if kind == "junk":
            recording.skip(seconds, packet.size)
            continue
        try:
            frames = packet.decode()
        except av.error.EOFError:
            break
        except (av.FFmpegError, NotImplementedError):  # the other packets decode without it
            recording.skip(seconds, None if states_times else packet.size)
            continue
        recording.num_bytes += packet.size
        for frame in frames:
            recording.add(frame)
    return packets.position if packets.is_broken else None


def _states_times(container: Any) -> bool:
    return bool(WITH_TIMES & set(container.format.name.split(",")))


def _stated_seconds(container: Any, stream: Any, size: int) -> float:
    """The container's duration; 0 where it states none, or more than `size` bytes can hold.

    A wrong header (of a stream that was cut, or never ended) is no reason to refuse a file.
    """
    import av

    seconds: float = (container.duration or 0) / av.time_base
    bytes_per_second = max(LEANEST, (stream.codec_context.bit_rate or 0) / 8 / 2)
    return seconds if 0 < seconds * bytes_per_second <= size else 0.0


def _seconds(ticks: int | None, packet: Any) -> float | None:
    return None if ticks is None or packet.time_base is None else float(ticks * packet.time_base)


class _Packets:
    """All packets that a container gives. The last one is empty and drains the decoder."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.container, self.stream = container, stream
        self.position = 0  # byte position of the last packet
        self.is_broken = False  # whether reading ended with errors

    def __iter__(self) -> Iterator[Any]:
        import av

        num_errors = 0
        while num_errors < MAX_READ_ERRORS:
            try:
                for packet in self.container.demux(self.stream):
                    num_errors, self.position = 0, packet.pos or self.position
                    yield packet
                return
            except av.error.EOFError:
                return
            except av.FFmpegError:  # most containers go on behind the error when asked again
                num_errors += 1
        self.is_broken = True  # the decoder may still hold one frame, which is lost
