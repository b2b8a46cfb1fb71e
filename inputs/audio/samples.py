"""Samples on their way to one form: mono float32, at the model's rate, grown in place."""

from typing import Any

import numpy as np

from antiphon.config.errors import AudioError

MAX_SECONDS = 6 * 3600  # bounds memory before it is spent: 6 h at 16 kHz are 1.4 GB
RATES = (1_000, 768_000)  # Hz; what lies outside is a mistake in the caller's units
# Full scale is 1. Loud masters and lossy codecs overshoot it a little (1.5 is often seen); what is
# above this is in other units, 16-bit values as floats for example.
LARGEST = 8.0
LARGEST_UNIT = 2.0**33  # of integers of 32 bits as floats
GARBAGE = 0.25  # share of absurd samples from which on the others of a frame are chance too
MAX_ABSURD = 0.01  # share of samples of integers' size that may be damage
GATHERED = 1 << 15  # samples that are resampled at once


def too_long(name: str) -> AudioError:
    return AudioError(f"{name}: longer than {MAX_SECONDS / 3600:.0f} hours; split it")


class AbsurdSamples:
    """Silences floats that can't be sound. Damage makes NaN and 1e38 of some; a byte that is lost
    makes all behind it random; and some files are in another unit from end to end."""

    def __init__(self) -> None:
        self.count = self.silenced = 0  # samples
        self.absurd = self.in_larger_unit = 0

    def silence(self, mono: np.ndarray) -> tuple[np.ndarray, int]:
        """A frame without them, and how many samples it has lost."""
        self.count += len(mono)
        if np.abs(mono).max() <= LARGEST:  # false for NaN
            return mono, 0
        size = np.abs(mono)
        good = size <= LARGEST
        lost = len(mono) - int(good.sum())
        self.absurd += lost
        self.in_larger_unit += int((~good & (size <= LARGEST_UNIT)).sum())
        if lost > GARBAGE * len(mono):
            good, lost = np.zeros_like(good), len(mono)
        self.silenced += lost
        return np.where(good, mono, np.float32(0)), lost

    def other_unit(self) -> bool:
        """Whether they are too many for damage, and all of a size that integers have."""
        return self.absurd > MAX_ABSURD * self.count and self.in_larger_unit > 0.9 * self.absurd


class SampleBuffer:
    """Float32 samples that grow in place: a long recording is never held twice."""

    def __init__(self, name: str, rate: int, expected_seconds: float = 0.0) -> None:
        """`expected_seconds`: how much to reserve; only what is filled becomes real memory."""
        self.name, self.limit = name, MAX_SECONDS * rate
        self.length = 0
        self._array = np.empty(int(min(expected_seconds, MAX_SECONDS) * rate), np.float32)

    def append(self, samples: np.ndarray) -> None:
        """Raises AudioError beyond `MAX_SECONDS`."""
        end = self.length + len(samples)
        if end > self.limit:
            raise too_long(self.name)
        if end > len(self._array):
            self._array.resize(max(end, len(self._array) * 5 // 4, 1 << 16), refcheck=False)
        self._array[self.length : end] = samples
        self.length = end

    def finish(self) -> np.ndarray:
        """The samples [n]; the buffer is used up."""
        samples, self._array = self._array, np.empty(0, np.float32)
        samples.resize(self.length, refcheck=False)  # gives back what was reserved and not filled
        return samples


class Resampler:
    """Mono samples of any rate to one rate. Where the rate changes, the stream before is drained.

    Frames of compressed sound are short, so some are gathered before PyAV's resampler is asked.
    """

    def __init__(self, rate: int) -> None:
        self.rate = self._input_rate = rate
        self._resampler: Any = None  # PyAV's; None while nothing needs to be done
        self._gathered: list[np.ndarray] = []
        self._count = 0  # samples in them

    def feed(self, mono: np.ndarray, input_rate: int) -> list[np.ndarray]:
        """float32 [n] at `input_rate` to pieces at `rate`; the last second or so stays inside."""
        before: list[np.ndarray] = []
        if input_rate != self._input_rate:
            before = self.drain()
            self._start(input_rate)
        self._gathered.append(mono)
        self._count += len(mono)
        return before if self._count < GATHERED else [*before, *self._resample()]

    @property
    def seconds_inside(self) -> float:
        return self._count / self._input_rate

    def drain(self) -> list[np.ndarray]:
        """What is still inside. `feed` may follow, and begins a new stream."""
        rest = self._resample()
        if self._resampler is not None:
            rest += [out.to_ndarray()[0] for out in self._resampler.resample(None)]
        self._resampler, self._input_rate = None, self.rate
        return rest

    def _start(self, input_rate: int) -> None:
        import av  # samples at the model's rate need none of it

        self._input_rate = input_rate
        if input_rate != self.rate:
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=self.rate)

    def _resample(self) -> list[np.ndarray]:
        """What has been gathered."""
        pieces, self._gathered, self._count = self._gathered, [], 0
        if self._resampler is None or not pieces:
            return pieces
        import av

        together = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        frame = av.AudioFrame.from_ndarray(together[None], format="flt", layout="mono")
        frame.sample_rate = self._input_rate
        return [out.to_ndarray()[0] for out in self._resampler.resample(frame)]
