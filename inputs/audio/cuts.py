"""Where a recording is cut into windows, and which windows hold no sound at all."""

import numpy as np

# The largest difference between two samples of a window without sound: two and a half steps of 16
# bits, as in digital silence with dither or a constant offset. Speech at -75 dB spans more than
# ten steps.
DIGITAL_SILENCE = 2.5 / 32768


def cut_at_quiet(samples: np.ndarray, window: int, rate: int) -> list[tuple[int, int]]:
    """Spans (start, end) that cover `samples` [n], none longer than `window` samples.

    Each cut lies in the quietest 50 ms of a window's last third, so that words stay whole.
    """
    spans, start, step = [], 0, rate // 20
    while len(samples) - start > window:
        first, last = start + window * 2 // 3, start + window
        frames = samples[first:last][: (last - first) // step * step].reshape(-1, step)
        quietest = int(np.argmin((frames**2).mean(1)))
        cut = first + quietest * step + step // 2
        spans.append((start, cut))
        start = cut
    return [*spans, (start, len(samples))]


def is_digital_silence(samples: np.ndarray) -> bool:
    """Whether nothing was recorded: the quietest speech moves further than DIGITAL_SILENCE."""
    return not len(samples) or float(samples.max() - samples.min()) <= DIGITAL_SILENCE
