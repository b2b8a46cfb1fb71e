"""Samples of any rate at one rate."""

from typing import Any

import numpy as np

BATCH = 1 << 15  # samples


class Resampler:
    """Brings a stream of mono samples to one rate. The stream's own rate may change.

    Frames of compressed audio are short: several are gathered for each call of PyAV's resampler.
    """

    def __init__(self, rate: int, batch: int = BATCH) -> None:
        """`batch`: samples, at the stream's rate, that are gathered."""
        self.rate = self._input_rate = rate
        self._batch = batch
        self._resampler: Any = None  # PyAV's; None for a stream that is at `rate` already
        self._gathered: list[np.ndarray] = []
        self._count = 0  # samples in `_gathered`

    def feed(self, mono: np.ndarray, input_rate: int) -> list[np.ndarray]:
        """Takes float32 samples [n] at `input_rate`; returns pieces at `rate`. The last second or
        so stays inside until more comes, or `drain`."""
        drained: list[np.ndarray] = []
        if input_rate != self._input_rate:
            drained = self.drain()
            self._start(input_rate)
        self._gathered.append(mono)
        self._count += len(mono)
        return drained if self._count < self._batch else [*drained, *self._resample()]

    @property
    def seconds_inside(self) -> float:
        return self._count / self._input_rate

    def drain(self) -> list[np.ndarray]:
        """All that is still inside, as pieces at `rate`. The next `feed` begins a new stream."""
        pieces = self._resample()
        if self._resampler is not None:
            pieces += [frame.to_ndarray()[0] for frame in self._resampler.resample(None)]
        self._resampler, self._input_rate = None, self.rate
        return pieces

    def _start(self, input_rate: int) -> None:
        import av  # late: samples at the model's rate don't need it

        self._input_rate = input_rate
        if input_rate != self.rate:
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=self.rate)

    def _resample(self) -> list[np.ndarray]:
        """The gathered samples as pieces at `rate`."""
        pieces, self._gathered, self._count = self._gathered, [], 0
        if self._resampler is None or not pieces:
            return pieces
        import av

        samples = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = self._input_rate
        return [frame.to_ndarray()[0] for frame in self._resampler.resample(frame)]
