"""The sound of one stream: what has come and may still be heard again."""

from typing import Any

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.config.foreign import shown
from antiphon.inputs.audio.arrays import as_array, read_array, whole_rate
from antiphon.inputs.audio.resampler import Resampler

PIECE_SECONDS = 0.1  # that are resampled together: text is late by that much


class LiveSound:
    """Samples at the model's rate, of which the oldest are let go."""

    def __init__(self, sampling_rate: Any, model_rate: int) -> None:
        """`sampling_rate`: Hz of what will come. Raises AudioError."""
        self.input_rate, self.rate = whole_rate(sampling_rate), model_rate
        self.start = 0  # samples that were let go
        self._resampler = Resampler(model_rate, int(PIECE_SECONDS * self.input_rate))
        self._samples = np.empty(0, np.float32)

    @property
    def end(self) -> int:
        """Samples that have come."""
        return self.start + len(self._samples)

    def add(self, chunk: Any) -> None:
        """Raises AudioError for what is not samples."""
        if isinstance(chunk, (bytes, bytearray, memoryview)):
            chunk = _pcm16(chunk)
        array = as_array(chunk)
        if array.dtype.kind in "iu" and array.dtype.itemsize > 2:
            raise AudioError(
                f"a chunk of {array.dtype} does not say its full scale: give floats in [-1, 1], "
                "int16, or bytes of 16-bit samples"
            )
        if array.size:
            samples = read_array(array, self.input_rate, self.input_rate)
            self._extend(self._resampler.feed(samples, self.input_rate))

    def finish(self) -> None:
        """Nothing more comes."""
        self._extend(self._resampler.drain())

    def piece(self, longest: int) -> np.ndarray:
        """The oldest samples that are here, `longest` of them at most."""
        return self._samples[:longest]

    def let_go(self, end: int) -> None:
        """Drops what lies before sample `end` of the stream."""
        self._samples = self._samples[max(0, end - self.start) :].copy()
        self.start = max(self.start, end)

    def _extend(self, pieces: list[np.ndarray]) -> None:
        self._samples = np.concatenate([self._samples, *pieces])


def _pcm16(chunk: bytes | bytearray | memoryview) -> np.ndarray:
    if len(chunk) % 2:
        raise AudioError(
            f"a chunk of {len(chunk)} bytes ends in the middle of a 16-bit sample: {shown(chunk)}"
        )
    return np.frombuffer(chunk, "<i2")
