"""Sound on its way in: any container and codec that PyAV reads, as mono float32 samples at the model's rate."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.config.errors import AudioError

MAX_SECONDS = 6 * 3600  # bounds memory before it is spent: 6 h at 16 kHz are 1.4 GB
RATES = (1_000, 768_000)  # Hz; what lies outside is a mistake in the caller's units

# A path, the bytes of a file, or (samples, rate): [n] or [n, channels], float in [-1, 1] or a signed integer type.
AudioInput = str | Path | bytes | tuple[Any, int]


def load_audio(source: AudioInput, rate: int) -> np.ndarray:
    """Mono float32 samples [n] at `rate` Hz. Raises AudioError, which names the source and what is wrong with it."""
    if isinstance(source, tuple):
        samples = _from_array(source, rate)
    elif isinstance(source, bytes):
        samples = _from_file(io.BytesIO(source), f"{len(source)} bytes of audio", rate)
    elif isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise AudioError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: the file is empty")
        samples = _from_file(str(path), str(path), rate)
    else:
        raise AudioError(f"audio must be a path, bytes or (samples, rate), not {type(source).__name__}")
    return samples


def _from_file(file: Any, name: str, rate: int) -> np.ndarray:
    import av  # here and below: samples at the model's rate need none of it

    try:
        with av.open(file, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: holds no audio stream")
            chunks = list(_resampled(container.decode(container.streams.audio[0]), name, rate))
    except AudioError:
        raise
    except (av.FFmpegError, ValueError, OSError) as error:
        raise AudioError(f"{name}: not readable as audio ({error})") from None
    if not chunks:
        raise AudioError(f"{name}: holds no samples")
    return _checked(np.concatenate(chunks), name)


def _resampled(frames: Iterator[Any], name: str, rate: int) -> Iterator[np.ndarray]:
    import av

    # Channels are averaged here: the resampler's own mix to mono is 3 dB too loud in floating point.
    resampler = av.AudioResampler(format="fltp", rate=rate)
    total = 0
    for frame in frames:
        frame.pts = None  # gaps in a file's timestamps are not silence
        for out in resampler.resample(frame):
            total += out.samples
            if total > MAX_SECONDS * rate:
                raise AudioError(f"{name}: longer than {MAX_SECONDS / 3600:.0f} hours; split it")
            yield out.to_ndarray().mean(axis=0)
    for out in resampler.resample(None):
        yield out.to_ndarray().mean(axis=0)


def _from_array(source: tuple[Any, int], rate: int) -> np.ndarray:
    if len(source) != 2:
        raise AudioError(f"audio as an array must be (samples, rate), not {len(source)} values")
    array, given_rate = np.asarray(source[0]), source[1]
    if isinstance(given_rate, bool) or not isinstance(given_rate, (int, np.integer)) or not RATES[0] <= given_rate <= RATES[1]:
        raise AudioError(f"sampling rate {given_rate!r} is not a whole number of Hz between {RATES[0]} and {RATES[1]}")
    if array.dtype.kind == "i":
        array = array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    elif array.dtype.kind != "f":
        raise AudioError(f"samples must be floats or signed integers, not {array.dtype}")
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] > 64):
        raise AudioError(f"samples must have shape [n] or [n, channels], not {list(array.shape)}")
    if array.size == 0:
        raise AudioError("the array of samples is empty")
    if array.shape[0] > MAX_SECONDS * given_rate:
        raise AudioError(f"the array is longer than {MAX_SECONDS / 3600:.0f} hours; split it")
    mono = array.mean(axis=1) if array.ndim == 2 else array
    mono = _checked(np.ascontiguousarray(mono, np.float32), "the array of samples")
    if given_rate == rate:
        return mono
    import av

    frame = av.AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
    frame.sample_rate = int(given_rate)
    return np.concatenate(list(_resampled(iter([frame]), "the array of samples", rate)))


def _checked(samples: np.ndarray, name: str) -> np.ndarray:
    bad = int((~np.isfinite(samples)).sum())
    if bad:
        raise AudioError(f"{name}: {bad} of {len(samples)} samples are NaN or infinite")
    return samples


def cut_at_quiet(samples: np.ndarray, window: int, rate: int) -> list[tuple[int, int]]:
    """Spans (start, end) that cover `samples`, none longer than `window`; each cut lies at the quietest 50 ms of the
    last third before the limit, so that words stay whole."""
    spans, start, step = [], 0, rate // 20
    while len(samples) - start > window:
        first, last = start + window * 2 // 3, start + window
        frames = samples[first:last][: (last - first) // step * step].reshape(-1, step)
        quietest = int(np.argmin((frames**2).mean(1)))
        cut = first + quietest * step + step // 2
        spans.append((start, cut))
        start = cut
    return [*spans, (start, len(samples))]
