"""Sound files, any container and codec that PyAV reads. What can be decoded of them is kept."""

import io
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.amr import AmrFrames
from antiphon.inputs.audio.arrays import FULL_SCALE, MIDDLE, mix
from antiphon.inputs.audio.declared_length import declared_seconds
from antiphon.inputs.audio.ogg import next_link
from antiphon.inputs.audio.samples import (
    LARGEST,
    MAX_SECONDS,
    RATES,
    AbsurdSamples,
    Resampler,
    SampleBuffer,
    too_long,
)
from antiphon.inputs.audio.sound import Reason, Skipped, Sound, merged

logger = logging.getLogger(__name__)

MAX_READ_ERRORS = 100  # of a container, one after another; then the rest counts as unreadable
MAX_DAMAGED = 0.95  # share of samples that may be NaN or absurd
LONGEST_PACKET = 1.0  # seconds; damaged packets may say anything
GAP = 0.1  # seconds between two packets' times that are taken for a loss
MISSING = 0.5  # seconds that a file may end before its header says
# Containers whose headers and packets know the time. In others (MP3, ADTS) it is estimated.
WITH_TIMES = {"matroska", "mov", "ogg", "flac", "wav", "w64", "aiff", "caf"}
AMR = ("amr", "amrnb", "amrwb")
LEANEST = 60.0  # bytes per second, of speech codecs that send nothing in pauses


def read_file(file: str | io.BytesIO, name: str, rate: int) -> Sound:
    """The best audio stream of a file as mono float32 at `rate` Hz. Raises AudioError."""
    import av

    try:
        with av.open(file, metadata_errors="ignore") as container:
            stream = _audio(container, name)
            seconds = _claimed_seconds(container, stream, _size(file))
            if seconds > MAX_SECONDS:
                raise too_long(name)
            plain = stream.codec_context.name.startswith("pcm_")
            recording = _Recording(name, rate, seconds, plain)
            declared = declared_seconds(file, container, stream)
            if declared is None:
                declared = seconds if _knows_times(container) else 0.0
            broken_at = _decode(container, stream, recording, seconds)
        link = None if broken_at is None else next_link(file, broken_at)
        if link is None:
            return recording.finish(declared)
        _decode_links(link, recording)
        return recording.finish(0.0)
    except av.FFmpegError as error:
        raise AudioError(f"{name}: not readable as audio ({error.strerror})") from error


def _audio(container: Any, name: str) -> Any:
    stream = container.streams.best("audio")
    if stream is None:
        raise AudioError(f"{name}: holds no audio stream")
    return stream


def _size(file: str | io.BytesIO) -> int:
    """In bytes; 0 for a pipe."""
    return os.path.getsize(file) if isinstance(file, str) else file.getbuffer().nbytes


def _decode_links(link: io.BytesIO | None, recording: "_Recording") -> None:
    """The rest of a chained Ogg file, of which FFmpeg reads on only where nothing has changed."""
    import av

    while link is not None:
        try:
            with av.open(link, metadata_errors="ignore") as container:
                broken_at = _decode(container, _audio(container, recording.name), recording, 0.0)
        except (av.FFmpegError, AudioError):  # what came before is there
            logger.warning("%s: a part of this chained Ogg file can't be read", recording.name)
            broken_at = 0
        link = None if broken_at is None else next_link(link, broken_at)


def _decode(container: Any, stream: Any, recording: "_Recording", limit: float) -> int | None:
    """Adds all that can be decoded. Losses are filled up to `limit` seconds.

    Returns None at the end, and the byte position of the last packet where reading broke off.
    """
    import av

    end: float | None = None  # of the packet before
    packets, knows_times = _Packets(container, stream), _knows_times(container)
    amr = AmrFrames(stream.codec_context.name) if container.format.name in AMR else None
    for packet in packets:
        start, seconds = _time(packet.pts, packet), _time(packet.duration or None, packet)
        if end is not None and start is not None and start - end > GAP and knows_times:
            recording.lose(start - end, "missing", limit)
        end = None if start is None or seconds is None else start + seconds
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
        except (av.FFmpegError, NotImplementedError):  # the others decode without it
            recording.skip(seconds, None if knows_times else packet.size)
            continue
        recording.num_bytes += packet.size
        for frame in frames:
            recording.add(frame)
    return packets.position if packets.broken else None


def _knows_times(container: Any) -> bool:
    return bool(WITH_TIMES & set(container.format.name.split(",")))


def _claimed_seconds(container: Any, stream: Any, size: int) -> float:
    """The header's duration, or 0 where it says none, or more than the file's bytes can hold: a
    wrong header (a stream that was cut, or never ended) is no reason to refuse."""
    import av

    seconds: float = (container.duration or 0) / av.time_base
    bytes_per_second = max(LEANEST, (stream.codec_context.bit_rate or 0) / 8 / 2)
    return seconds if 0 < seconds * bytes_per_second <= size else 0.0


class _Packets:
    """All that a container gives; the last one, which is empty, drains the decoder."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.container, self.stream = container, stream
        self.position = 0  # of the last packet, in bytes
        self.broken = False  # reading ended with errors

    def __iter__(self) -> Iterator[Any]:
        import av

        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                for packet in self.container.demux(self.stream):
                    errors, self.position = 0, packet.pos or self.position
                    yield packet
                return
            except av.error.EOFError:
                return
            except av.FFmpegError:  # asked again, most containers go on behind it
                errors += 1
        self.broken = True  # what the decoder still holds is a frame at most


def _time(ticks: int | None, packet: Any) -> float | None:
    """In seconds."""
    return None if ticks is None or packet.time_base is None else float(ticks * packet.time_base)


class _Recording:
    """What has been decoded of one file so far. The stream's rate, channels and sample format may
    change from frame to frame."""

    def __init__(self, name: str, rate: int, expected_seconds: float, plain: bool) -> None:
        self.name, self.rate, self.plain = name, rate, plain
        self._resampler = Resampler(rate)
        self._buffer = SampleBuffer(name, rate, expected_seconds + 1)
        self._skipped: list[Skipped] = []
        self._frames, self._lost_packets = 0, 0
        self._absurd = AbsurdSamples()
        self.num_bytes, self._seconds = 0, 0.0  # of what has been decoded
        self._last_seconds = (
            0.02  # of a frame, for damaged packets that don't say how long they are
        )

    def add(self, frame: Any) -> None:
        """A decoded frame. The packets know the times."""
        input_rate, count = frame.sample_rate, frame.samples
        kind = frame.format.packed.name
        if not count:
            return
        if not RATES[0] <= input_rate <= RATES[1]:
            return self.skip(None)
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(count, -1).T
        full_scale = 1.0 if kind in ("flt", "dbl") else FULL_SCALE[samples.dtype.name]
        mono = mix(samples, full_scale, MIDDLE.get(samples.dtype.name, 0.0))
        self._frames += 1
        self._last_seconds = count / input_rate
        self._seconds += self._last_seconds
        for piece in self._resampler.feed(self._without_absurd(mono), input_rate):
            self._buffer.append(piece)

    def _without_absurd(self, mono: np.ndarray) -> np.ndarray:
        mono, lost = self._absurd.silence(mono)
        if lost:
            self._note_skipped(lost, len(mono))
        return mono

    def _note_skipped(self, bad: int, count: int) -> None:
        start = self._buffer.length / self.rate + self._resampler.seconds_inside
        end = start + self._last_seconds * bad / count
        self._skipped.append(Skipped(start, end, "undecodable"))

    def skip(self, seconds: float | None, size: int | None = None) -> None:
        """A packet that can't be decoded. `size`: its bytes, where they tell its length better than
        its own word for it: no more than as many have been so far."""
        self._lost_packets += 1
        seconds = self._last_seconds if seconds is None else min(seconds, LONGEST_PACKET)
        if size is not None and self.num_bytes:
            seconds = min(seconds, size * self._seconds / self.num_bytes)
        self.lose(seconds, "undecodable")

    def pause(self, seconds: float | None) -> None:
        """Silence that was recorded as such."""
        count = round((self._last_seconds if seconds is None else seconds) * self.rate)
        for piece in self._resampler.drain():
            self._buffer.append(piece)
        self._buffer.append(np.zeros(count, np.float32))
        self._frames += 1

    def lose(self, seconds: float, reason: Reason, limit: float = math.inf) -> None:
        """As much silence, so that times behind it stay true; but none that would reach beyond
        `limit` seconds: then it is the times that are damaged."""
        for piece in self._resampler.drain():
            self._buffer.append(piece)
        start = self._buffer.length / self.rate
        if start + seconds > limit:
            return
        self._buffer.append(np.zeros(round(seconds * self.rate), np.float32))
        self._skipped.append(Skipped(start, self._buffer.length / self.rate, reason))

    def finish(self, declared: float) -> Sound:
        """`declared`: seconds by the header, 0 for none. Raises AudioError where hardly anything was decoded."""
        for piece in self._resampler.drain():
            self._buffer.append(piece)
        if not self._frames and self._lost_packets:
            raise AudioError(
                f"{self.name}: not readable as audio (none of its {self._lost_packets} packets can be decoded)"
            )
        if not self._frames:
            raise AudioError(f"{self.name}: holds no samples")
        absurd = self._absurd
        # What a codec makes of damaged packets may have any size.
        if (self.plain and absurd.other_unit()) or absurd.silenced > MAX_DAMAGED * absurd.count:
            raise AudioError(
                f"{self.name}: {absurd.absurd} of {absurd.count} samples are NaN, "
                f"infinite or beyond {LARGEST:g} where full scale is 1"
            )
        end = self._buffer.length / self.rate
        if declared - end > MISSING and declared <= MAX_SECONDS:  # a longer one is a wrong header
            self._skipped.append(Skipped(end, declared, "missing"))
        skipped = merged(self._skipped)
        if skipped:
            logger.warning(
                "%s: %.2f s in %d places are damaged or missing, and have no text",
                self.name,
                sum(span.end - span.start for span in skipped),
                len(skipped),
            )
        return Sound(self._buffer.finish(), skipped)
