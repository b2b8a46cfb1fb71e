"""Arrays, tensors and lists of samples as mono float32 in [-1, 1]."""

import sys
from typing import Any

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.buffer import SampleBuffer
from antiphon.inputs.audio.cuts import DIGITAL_SILENCE
from antiphon.inputs.audio.limits import LARGEST, MAX_SECONDS, RATES, too_long
from antiphon.inputs.audio.resampler import Resampler

MAX_CHANNELS = 64
PIECE = 1 << 18  # samples that are mixed and resampled at once
# A recorder with one microphone's wires swapped gives channels whose mean is silence.
CANCELLING = 1 << 12  # samples within which they are seen to do so
CANCELLED = 0.01  # most of the mean, in parts of the loudest channel
QUIET = 2 * CANCELLED  # no mean of channels within full scale is louder and cancelled
NAME = "the array of samples"
# Integer samples use the whole range of their type, as in every audio file.
FULL_SCALE = {"int8": 2.0**7, "uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31, "int64": 2.0**63}
MIDDLE = {"uint8": 128.0}  # silence in 8-bit WAV, which has no sign


def read_array(samples: Any, rate: Any, model_rate: int) -> np.ndarray:
    """Samples [n], [n, channels] or [channels, n] of any float or integer type, at `rate` Hz.

    Returns float32 [m] at `model_rate`. Raises AudioError.
    """
    input_rate = whole_rate(rate)
    if isinstance(samples, (list, tuple)) and len(samples) > MAX_SECONDS * input_rate:
        raise too_long(NAME)  # before it is converted: a list takes several times the memory
    channels_first = by_channel(as_array(samples))
    if channels_first.shape[1] > MAX_SECONDS * input_rate:
        raise too_long(NAME)
    full_scale, middle = _unit(channels_first)
    if input_rate == model_rate:  # one pass to copy and two to check, while the caller waits
        return _checked(_heard(channels_first, full_scale, middle), 0, channels_first)
    resampler = Resampler(model_rate)
    buffer = SampleBuffer(NAME, model_rate, channels_first.shape[1] / input_rate + 1)
    for start in range(0, channels_first.shape[1], PIECE):  # in pieces: nothing is held twice
        mono = _heard(channels_first[:, start : start + PIECE], full_scale, middle)
        for piece in resampler.feed(_checked(mono, start, channels_first), input_rate):
            buffer.append(piece)
    for piece in resampler.drain():
        buffer.append(piece)
    return buffer.finish()


def whole_rate(rate: Any) -> int:
    """A rate in Hz as int; 16000.0 is 16000. Raises AudioError."""
    value = rate.item() if hasattr(rate, "item") and getattr(rate, "ndim", 0) == 0 else rate
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not RATES[0] <= value <= RATES[1]:
        shown = repr(rate)[:60]
        raise AudioError(
            f"sampling rate {shown} is not a whole number of Hz between {RATES[0]} and {RATES[1]}"
        )
    return value


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor. It can't be one before its owner has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(samples: Any) -> np.ndarray:
    """A numpy array from an array, a list of numbers, or a torch tensor on any device.

    Raises AudioError for types that hold no samples.
    """
    if is_tensor(samples):
        samples = samples.detach().cpu()
        if str(samples.dtype) == "torch.bfloat16":  # numpy has no such type
            samples = samples.float()
        array: np.ndarray = samples.numpy()
    else:
        try:
            array = np.asarray(samples)
        except ValueError:
            raise AudioError(
                "the samples are not one array: their channels differ in length"
            ) from None
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fiu" or (kind == "u" and size > 1):
        raise AudioError(
            "samples must be floats or signed integers (or uint8, as in 8-bit WAV), "
            f"not {array.dtype}"
        )
    # Files of other machines give foreign byte orders: '>i4' becomes int32.
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def by_channel(array: np.ndarray) -> np.ndarray:
    """[channels, n] from any layout: the longer axis is time; leading axes of size 1 are dropped.

    Raises AudioError where that leaves no two axes, or two of the same length.
    """
    shape = list(array.shape)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.size == 0:
        raise AudioError("the array of samples is empty")
    if array.ndim == 1:
        return array[None]
    if array.ndim != 2 or min(array.shape) > MAX_CHANNELS:
        raise AudioError(
            f"samples must have shape [n], [n, channels] or [channels, n], not {shape}"
        )
    if array.shape[0] == array.shape[1] > 1:
        raise AudioError(f"samples of shape {shape}: which axis is time? Give [n] or longer pieces")
    return array if array.shape[0] < array.shape[1] or array.shape[0] == 1 else array.T


def mix(channels_first: np.ndarray, full_scale: float, middle: float = 0.0) -> np.ndarray:
    """The mean of all channels [channels, n] as float32 [n], scaled so that `full_scale` becomes 1
    and `middle` 0."""
    # PyAV's resampler mixes floats 3 dB too loud, and only layouts that have names.
    channels = len(channels_first)
    with np.errstate(over="ignore", invalid="ignore"):  # `_checked` refuses what is not finite
        mono = channels_first[0].astype(np.float32)
        for channel in channels_first[1:]:
            mono += channel
        if middle:
            mono -= middle * channels
        if channels * full_scale != 1.0:
            mono *= np.float32(1.0 / (channels * full_scale))
    return mono


def peak_of(samples: np.ndarray) -> float:
    """The largest size of a sample; NaN if one is."""
    return max(float(samples.max()), -float(samples.min()))


def undo_cancelling(
    mono: np.ndarray, peak: float, channels_first: np.ndarray, full_scale: float, middle: float
) -> float:
    """Where channels cancel each other out, puts one of them into their mean `mono` [n]: the first
    that is hardly quieter than any. From the peak of `mono` to that which it has now."""
    if not peak < QUIET or len(channels_first) == 1:  # NaN is left to those who check
        return peak
    with np.errstate(over="ignore", invalid="ignore"):
        heard = (channels_first.astype(np.float32) - np.float32(middle)) / np.float32(full_scale)
    peaks = [peak_of(channel) for channel in heard]
    if peak > CANCELLED * max(peaks) or max(peaks) <= DIGITAL_SILENCE:
        return peak
    best = next(number for number, its_peak in enumerate(peaks) if its_peak >= max(peaks) / 2)
    mono[:] = heard[best]
    return peaks[best]


def heard(
    channels_first: np.ndarray, starts: np.ndarray, full_scale: float, middle: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `mix`, without cancelling in any of the parts that begin at `starts`; and their peaks."""
    mono = mix(channels_first, full_scale, middle)
    peaks = np.maximum(np.maximum.reduceat(mono, starts), -np.minimum.reduceat(mono, starts))
    for number in np.flatnonzero(peaks < QUIET) if len(channels_first) > 1 else ():
        part = slice(starts[number], starts[number + 1] if number + 1 < len(starts) else None)
        peak, inputs = float(peaks[number]), channels_first[:, part]
        peaks[number] = undo_cancelling(mono[part], peak, inputs, full_scale, middle)
    return mono, peaks


def _heard(channels_first: np.ndarray, full_scale: float, middle: float) -> np.ndarray:
    """As `mix`, without cancelling."""
    if len(channels_first) == 1:
        return mix(channels_first, full_scale, middle)
    starts = np.arange(0, channels_first.shape[1], CANCELLING)
    return heard(channels_first, starts, full_scale, middle)[0]


def _unit(array: np.ndarray) -> tuple[float, float]:
    """(full scale, middle) by the type of an array, or by the values of wide integers.

    16-bit samples become int32 or int64 in lists, JSON and pandas, so a type of 32 or 64 bits says
    nothing. Such samples are taken for the narrowest of 16, 24 and 32 bits that holds them all:
    the recording may come out louder than it was, but it is never lost.
    """
    if array.dtype.kind == "f":
        return 1.0, 0.0
    if array.dtype not in (np.int32, np.int64):
        return FULL_SCALE[array.dtype.name], MIDDLE.get(array.dtype.name, 0.0)
    low, high = int(array.min()), int(array.max())
    if low >= 0 and 127 < high <= 255:
        raise AudioError(
            f"samples between {low} and {high} in {array.dtype} look like 8-bit values without a "
            "sign: give them as uint8, or as floats in [-1, 1]"
        )
    for bits in (16, 24, 32):
        if -(1 << bits - 1) <= low and high < 1 << bits - 1:
            return 2.0 ** (bits - 1), 0.0
    raise AudioError(
        f"samples between {low} and {high} are beyond 32 bits: give floats in [-1, 1] or int16"
    )


def _checked(mono: np.ndarray, start: int, channels_first: np.ndarray) -> np.ndarray:
    """`mono`, which begins at sample `start` of `channels_first`.

    Raises AudioError for samples that can't be audio, and says why.
    """
    if mono.min() >= -LARGEST and mono.max() <= LARGEST:  # false for NaN
        return mono
    bad = int((~np.isfinite(channels_first)).any(axis=0).sum())
    if bad:
        raise AudioError(f"{NAME}: {bad} of {channels_first.shape[1]} samples are NaN or infinite")
    peak = float(np.abs(mono).max())
    raise AudioError(
        f"{NAME} reaches {peak:g} at sample {start + int(np.abs(mono).argmax())}, but floats are "
        "taken for full scale at 1: divide 16-bit values by 32768, or give them as int16"
    )
