"""A running median on a CPU, compiled with Numba: one row at a time, which stays in the cache."""

import numpy as np

from antiphon.kernels.numba_cache import compiled, make_ready


@compiled(nogil=True, fastmath=True)
def _smooth(values, width, out):
    """The median of every `width` (odd) of `values` [heads, rows, frames], which are mirrored at
    both ends: added up over heads into `out` [rows, frames]. `width` is at most 2 * frames - 1."""
    heads, rows, frames = values.shape
    half = width // 2
    neighbors = np.empty((width, frames), np.float32)
    for row in range(rows):
        for head in range(heads):
            for shift in range(width):
                first = shift - half
                for frame in range(frames):
                    place = abs(frame + first)
                    if place >= frames:
                        place = 2 * (frames - 1) - place
                    neighbors[shift, frame] = values[head, row, place]
            # The largest goes to the end, again and again, until the middle is in its place.
            for end in range(width - 1, half - 1, -1):
                for i in range(end):
                    for frame in range(frames):
                        low, high = neighbors[i, frame], neighbors[i + 1, frame]
                        neighbors[i, frame] = low if low < high else high
                        neighbors[i + 1, frame] = high if low < high else low
            for frame in range(frames):
                out[row, frame] += neighbors[half, frame]


def smoothed_sum(values: np.ndarray, width: int) -> np.ndarray:
    """The running medians of `values` [heads, rows, frames] float32, summed over heads: [rows,
    frames]. Fewer frames than are mirrored at an end stay as they are."""
    out = np.zeros(values.shape[1:], np.float32)
    if values.shape[-1] <= width // 2:
        width = 1
    _smooth(np.ascontiguousarray(values), width, out)
    return out


def make_kernels_ready() -> None:
    """Compiles the kernel or reads it from disk."""
    make_ready(_smooth, np.zeros((1, 1, 1), np.float32), 1, np.zeros((1, 1), np.float32))
