"""Where a recording is cut into windows, and which windows hold no sound at all."""

import numpy as np

# Largest less smallest sample of a window without sound. Two and a half steps of 16 bits: digital
# silence, dithered or with a constant offset. Speech at -75 dB moves by more than ten.
DIGITAL_SILENCE = 2.5 / 32768


def cut_at_quiet(samples: np.ndarray, window: int, rate: int) -> list[tuple[int, int]]:
    """Spans (start, end) that cover `samples`, none longer than `window`; each cut lies at the
    quietest 50 ms of the last third before the limit, so that words stay whole."""
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
    """Whether nothing was recorded there: however quiet speech is, it moves further than this."""
    return not len(samples) or float(samples.max() - samples.min()) <= DIGITAL_SILENCE
