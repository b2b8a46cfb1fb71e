"""Samples that can't be audio: what damage makes of floats, and floats in other units."""

import numpy as np

from antiphon.inputs.audio.limits import LARGEST

LARGEST_INTEGER = 2.0**33  # no 32-bit integer written as a float is larger
GARBAGE = 0.25  # share of implausible samples above which the rest of a frame is random too
MAX_DAMAGED = 0.01  # share of integer-sized samples that may still be damage


class ImplausibleSamples:
    """Silences floats that can't be audio, and counts them.

    Damage turns some samples into NaN or 1e38. A lost byte makes all samples behind it random. And
    some files are in another unit from end to end.
    """

    def __init__(self) -> None:
        self.count = 0  # samples seen
        self.silenced = 0
        self.implausible = 0
        self.integer_sized = 0  # of the implausible ones

    def silence(self, mono: np.ndarray, peak: float) -> tuple[np.ndarray, int]:
        """A frame [n] with this peak, without implausible samples, and how many were silenced."""
        self.count += len(mono)
        if peak <= LARGEST:  # false for NaN
            return mono, 0
        size = np.abs(mono)
        good = size <= LARGEST
        bad = len(mono) - int(good.sum())
        self.implausible += bad
        self.integer_sized += int((~good & (size <= LARGEST_INTEGER)).sum())
        if bad > GARBAGE * len(mono):
            good, bad = np.zeros_like(good), len(mono)
        self.silenced += bad
        return np.where(good, mono, np.float32(0)), bad

    def in_other_unit(self) -> bool:
        """Whether they are too many for damage, and nearly all of them sized like integers."""
        too_many = self.implausible > MAX_DAMAGED * self.count
        return too_many and self.integer_sized > 0.9 * self.implausible
