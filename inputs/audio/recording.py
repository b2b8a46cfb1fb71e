"""What has been decoded of one audio file so far, with silence where something is missing."""

import logging
import math
from typing import Any

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.arrays import FULL_SCALE, MIDDLE, heard
from antiphon.inputs.audio.buffer import SampleBuffer
from antiphon.inputs.audio.frames import concatenated, planes_of
from antiphon.inputs.audio.implausible import ImplausibleSamples
from antiphon.inputs.audio.limits import LARGEST, MAX_SECONDS, RATES
from antiphon.inputs.audio.resampler import Resampler
from antiphon.inputs.audio.sound import Reason, Skipped, Sound, merged

logger = logging.getLogger(__name__)

GATHERED = 1 << 15  # samples: a second or so
END_TOLERANCE = 0.5  # seconds by which files may end before their headers say
MAX_SILENCED = 0.95  # share of samples that may be NaN or implausible
LONGEST_PACKET = 1.1  # seconds, as TTA has them; a damaged packet may state any length
FIRST_FRAME = 0.02  # seconds; the length of a damaged packet before any other
LEAST_UNREAD = 0.5  # seconds
MOST_UNREAD = 60.0  # seconds of silence between two recordings for what is no part of either


class Recording:
    """Collects a file's frames as mono samples at `rate` Hz.

    The stream's rate, channels and sample format may change from frame to frame. Frames are short,
    so those of about a second are mixed and checked together: numpy takes longer to be called than
    for what it does to one, and each call may cost this thread its turn in the interpreter.
    """

    def __init__(self, name: str, rate: int, expected_seconds: float, is_pcm: bool) -> None:
        self.name, self.rate, self.is_pcm = name, rate, is_pcm
        self.num_bytes = 0  # of the packets decoded so far
        self._resampler = Resampler(rate)
        self._buffer = SampleBuffer(name, rate, expected_seconds + 1)
        self._implausible = ImplausibleSamples()
        self._skipped: list[Skipped] = []
        # Frames of one rate, format and number of channels, which are not mixed yet, and their
        # lengths in samples.
        self._gathered: list[list[np.ndarray]] = []
        self._lengths: list[int] = []
        self._kind: tuple[int, str, int] = (0, "", 0)
        self.num_frames = self._num_lost_packets = 0
        self._unread = 0.0  # seconds that bytes behind the last part would last
        self._seconds = self._part_start = 0.0  # of the frames decoded so far, and before this part
        self._last_seconds = FIRST_FRAME  # of the last frame

    def add(self, frame: Any) -> None:
        """Appends a decoded frame."""
        input_rate, count = frame.sample_rate, frame.samples
        if not count:
            return
        if not RATES[0] <= input_rate <= RATES[1]:
            self.skip(None)
            return
        kind = (input_rate, frame.format.name, frame.layout.nb_channels)
        if kind != self._kind or sum(self._lengths) >= GATHERED:
            self._mix_gathered()
        self._kind = kind
        self._gathered.append(planes_of(frame, kind[-1]))
        self._lengths.append(count)
        self._count(count, 1, input_rate)

    def add_frames(self, samples: np.ndarray, length: int, input_rate: int) -> None:
        """Appends samples [channels, n] that are frames of `length` samples, but for the last."""
        self._mix_gathered()
        starts = np.arange(0, samples.shape[1], length)
        self._mix(samples, starts, input_rate)
        self._count(samples.shape[1], len(starts), input_rate)

    def skip(self, seconds: float | None, num_bytes: int | None = None) -> None:
        """Fills in for a packet that can't be decoded and says that it lasts `seconds`.

        `num_bytes`, its size, limits that: no longer than as many bytes have lasted so far.
        """
        self._num_lost_packets += 1
        seconds = self._last_seconds if seconds is None else min(seconds, LONGEST_PACKET)
        if num_bytes is not None and self.num_bytes:
            seconds = min(seconds, num_bytes * self._seconds / self.num_bytes)
        self.lose(seconds, "undecodable")

    def pause(self, seconds: float | None) -> None:
        """Appends silence that was recorded as such."""
        seconds = self._last_seconds if seconds is None else seconds
        self._drain()
        self._buffer.append(np.zeros(round(seconds * self.rate), np.float32))
        self.num_frames += 1

    def lose(self, seconds: float, reason: Reason, limit: float = math.inf) -> None:
        """Appends silence for a loss, so that times behind it stay true.

        A loss that would reach beyond `limit` seconds of this part is left out: its times are
        damaged.
        """
        start = self._end()
        if start - self._part_start + seconds > limit:
            return
        self._buffer.append(np.zeros(round(seconds * self.rate), np.float32))
        self._skipped.append(Skipped(start, self._buffer.length / self.rate, reason))

    def begin_part(self) -> None:
        """Of a file to which several recordings were joined, the next one. What it declares and
        what it lacks, it tells by its own times; what nobody reads before it is silence."""
        if self._unread > LEAST_UNREAD:
            self.lose(min(self._unread, MOST_UNREAD), "undecodable")
        self._unread = 0.0
        self._part_start = self._end()

    def end_part(self, declared: float, tolerance: float) -> None:
        """`declared`: its length in seconds by its header, 0 for none, and by how much it may be
        shorter."""
        end = self._end()
        declared_end = self._part_start + declared
        # A header may be wrong.
        if declared_end - end > tolerance and declared <= MAX_SECONDS:
            self._skipped.append(Skipped(end, declared_end, "missing"))

    def unread(self, num_bytes: int) -> None:
        """Tells of bytes behind a part that are no sound to anybody: they would last as long as so
        many have lasted so far."""
        if self.num_bytes:
            self._unread += num_bytes * self._seconds / self.num_bytes

    def finish(self) -> Sound:
        """The whole recording.

        Raises AudioError for a file of which hardly anything could be decoded.
        """
        end = self._end()
        if self._unread > LEAST_UNREAD:
            self._skipped.append(Skipped(end, end + self._unread, "undecodable"))
        self._check()
        skipped = merged(self._skipped)
        if skipped:
            logger.warning(
                "%s: %.2f s in %d places are damaged or missing, and have no text",
                self.name,
                sum(span.end - span.start for span in skipped),
                len(skipped),
            )
        return Sound(self._buffer.finish(), skipped)

    def _check(self) -> None:
        if not self.num_frames and self._num_lost_packets:
            raise AudioError(
                f"{self.name}: not readable as audio "
                f"(none of its {self._num_lost_packets} packets can be decoded)"
            )
        if not self.num_frames:
            raise AudioError(f"{self.name}: holds no samples")
        samples = self._implausible
        # Only PCM tells units by size: a lossy codec makes samples of any size of damaged packets.
        in_other_unit = self.is_pcm and samples.in_other_unit()
        if in_other_unit or samples.silenced > MAX_SILENCED * samples.count:
            raise AudioError(
                f"{self.name}: {samples.implausible} of {samples.count} samples are NaN, "
                f"infinite or beyond {LARGEST:g} where full scale is 1"
            )

    def _end(self) -> float:
        """In seconds, of all so far."""
        self._drain()
        return self._buffer.length / self.rate

    def _drain(self) -> None:
        self._mix_gathered()
        self._extend(self._resampler.drain())

    def _extend(self, pieces: list[np.ndarray]) -> None:
        for piece in pieces:
            self._buffer.append(piece)

    def _count(self, samples: int, frames: int, input_rate: int) -> None:
        self.num_frames += frames
        self._last_seconds = samples / input_rate / frames
        self._seconds += samples / input_rate

    def _mix_gathered(self) -> None:
        frames, lengths = self._gathered, self._lengths
        self._gathered, self._lengths = [], []
        if frames:
            input_rate, _, channels = self._kind
            samples = concatenated(frames, channels)
            self._mix(samples, np.cumsum([0, *lengths[:-1]]), input_rate)

    def _mix(self, samples: np.ndarray, starts: np.ndarray, input_rate: int) -> None:
        """Appends samples [channels, n] of frames that begin at `starts`."""
        kind = samples.dtype.name
        mono, peaks = heard(samples, starts, FULL_SCALE.get(kind, 1.0), MIDDLE.get(kind, 0.0))
        if (peaks <= LARGEST).all():  # false for NaN
            parts, peaks = [mono], peaks.max(keepdims=True)
        else:  # each frame is judged, and told of, by itself
            parts = np.split(mono, starts[1:])
        for part, peak in zip(parts, peaks.tolist(), strict=True):
            plausible = self._without_implausible(part, peak, input_rate)
            self._extend(self._resampler.feed(plausible, input_rate))

    def _without_implausible(self, mono: np.ndarray, peak: float, input_rate: int) -> np.ndarray:
        samples, count = self._implausible.silence(mono, peak)
        if count:
            start = self._buffer.length / self.rate + self._resampler.seconds_inside
            end = start + count / input_rate
            self._skipped.append(Skipped(start, end, "undecodable"))
        return samples
