"""An array of samples that grows in place."""

import numpy as np

from antiphon.inputs.audio.limits import MAX_SECONDS, too_long

SMALLEST = 1 << 16  # samples


class SampleBuffer:
    """Float32 samples that grow in place: a long recording is never held twice."""

    def __init__(self, name: str, rate: int, expected_seconds: float = 0.0) -> None:
        """`expected_seconds`: how much to reserve. Only what is filled becomes real memory."""
        self.name, self.limit = name, MAX_SECONDS * rate
        self.length = 0  # samples
        self._array = np.empty(int(min(expected_seconds, MAX_SECONDS) * rate), np.float32)

    def append(self, samples: np.ndarray) -> None:
        """Raises AudioError beyond `MAX_SECONDS`."""
        end = self.length + len(samples)
        if end > self.limit:
            raise too_long(self.name)
        if end > len(self._array):
            self._array.resize(max(end, len(self._array) * 5 // 4, SMALLEST), refcheck=False)
        self._array[self.length : end] = samples
        self.length = end

    def finish(self) -> np.ndarray:
        """The samples [n]. The buffer can't be used afterwards."""
        samples, self._array = self._array, np.empty(0, np.float32)
        samples.resize(self.length, refcheck=False)  # gives back what was reserved and not filled
        return samples
