"""exp in float32 for loops of Numba kernels: without a call, so that LLVM makes vectors of it."""

import numba
import numpy as np

LOG2E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST = np.float32(-87.0)


@numba.njit(inline="always")
def exp(x):
    """Of a float32 that is at most 88; within 1.2e-7 of its value, and 1.6e-38 below -87.

    Powers of 2 by the exponent's bits, the rest by the polynomial of Cephes (expf.c).
    """
    limited = x if x > LOWEST else LOWEST
    power = np.floor(limited * LOG2E + np.float32(0.5))
    rest = limited - power * LN2_HIGH - power * LN2_LOW
    series = np.float32(1.9875691500e-4)
    series = series * rest + np.float32(1.3981999507e-3)
    series = series * rest + np.float32(8.3334519073e-3)
    series = series * rest + np.float32(4.1665795894e-2)
    series = series * rest + np.float32(1.6666665459e-1)
    series = series * rest + np.float32(5.0000001201e-1)
    series = series * rest * rest + rest + np.float32(1)
    bits = (np.int32(power) + np.int32(127)) << np.int32(23)
    return series * np.int32(bits).view(np.float32)
