"""Where a recording is cut into windows, and which windows hold no sound at all."""

import numpy as np

# The largest difference between two samples of a window without sound: two and a half steps of 16
# bits, as in digital silence with dither or a constant offset. Speech at -75 dB spans more than
# ten steps.
DIGITAL_SILENCE = 2.5 / 32768
PAUSE = 0.02  # the most power of a pause, in that of its window
SHARED = 1 / 8  # of a window: what two windows hear where there is no pause between them
SPARE = 1 / 30  # of a window: silence behind such a cut


def cut_at_quiet(
    samples: np.ndarray, window: int, rate: int, overlaps: bool = False
) -> list[tuple[int, int]]:
    """Spans (start, end) that cover `samples` [n], none longer than `window` samples.

    Each cut lies in the quietest 150 ms of a window's last third, so that words stay whole. With
    `overlaps`, where even these are no pause, both spans hear what is around the cut.
    """
    spans, start = [], 0
    while len(samples) - start > window:
        whole, shared = samples[start : start + window], 0
        cut, power = _quietest(whole, window * 2 // 3, window, rate)
        if overlaps and power > PAUSE * float((whole**2).mean()):
            shared = int(window * SHARED / 2)
            # Speech that goes on to a window's very end, Whisper leaves to the next one.
            last = window - shared - int(window * SPARE)
            cut, _ = _quietest(whole, window * 2 // 3, last, rate)
        spans.append((start, start + cut + shared))
        start += cut - shared
    return [*spans, (start, len(samples))]


def _quietest(samples: np.ndarray, first: int, last: int, rate: int) -> tuple[int, float]:
    """The middle of the quietest 150 ms from sample `first` to `last`, and their power."""
    step = rate // 20
    frames = samples[first:last][: (last - first) // step * step].reshape(-1, step)
    powers = np.convolve((frames**2).mean(1), np.full(3, 1 / 3), "valid")
    quietest = int(np.argmin(powers))
    return first + (quietest + 1) * step + step // 2, float(powers[quietest])


def is_digital_silence(samples: np.ndarray) -> bool:
    """Whether nothing was recorded: the quietest speech moves further than DIGITAL_SILENCE."""
    return not len(samples) or float(samples.max() - samples.min()) <= DIGITAL_SILENCE
