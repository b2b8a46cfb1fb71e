"""Recordings in the forms that callers have them, and the one adapter to samples."""

import io
import os
from array import array
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.arrays import is_tensor, read_array, whole_rate
from antiphon.inputs.audio.files import read_file
from antiphon.inputs.audio.limits import MAX_SECONDS, too_long
from antiphon.inputs.audio.sound import Sound
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.media_files import kept_place

# A path; the bytes of a file (bytes, bytearray, memoryview), or an open file; samples alone, which
# are at the model's rate, or (samples, rate), either way round: arrays, tensors and lists [n],
# [n, channels] or [channels, n], floats in [-1, 1] or integers; Hugging Face's mappings
# ({"array", "sampling_rate"}, {"raw", "sampling_rate"}, {"path", "bytes"}); torchcodec's objects.
AudioInput = Any

EXPANSION = 24  # 16 kHz float32 samples are this many times larger than speech in 24 kbit/s Opus
UNKNOWN_BYTES = 1 << 20  # of a stream that does not tell its size: some minutes of speech
SAMPLE_BYTES = np.dtype(np.float32).itemsize
RATE_KEYS = ("sampling_rate", "sample_rate", "rate")
SAMPLE_KEYS = ("array", "raw", "waveform")
FORMS = (
    "a path, the bytes of a file, a file object, samples (at {rate} Hz), (samples, rate), or a "
    "mapping with 'array' and 'sampling_rate'"
)


def load_audio(source: AudioInput, rate: int) -> np.ndarray:
    """Mono float32 samples [n] at `rate` Hz from any form of audio (see `AudioInput`).

    Raises AudioError, which names the source, what is wrong with it and what would be right.
    """
    return read_sound(source, rate).samples


def read_sound(source: AudioInput, rate: int) -> Sound:
    """As `load_audio`, with the spans that could not be decoded. Raises AudioError."""
    with foreign_errors_as(AudioError, f"audio of type {type(source).__name__}"):
        return _read(source, rate)


def expected_bytes(source: AudioInput, rate: int) -> int:
    """An estimate of the memory that the samples of `source` will take, before anything is read.

    0 for what is no audio: reading will report what is wrong with the source.
    """
    try:
        return min(_longest_bytes(rate), _expected(source, rate))
    except Exception:  # a caller's own object may raise anything; a sparse tensor does
        return 0


def _expected(source: AudioInput, rate: int) -> int:
    """As `expected_bytes`, for the forms that `_read` knows. May raise anything."""
    if isinstance(source, (str, os.PathLike)):
        return expected_bytes_of_file(Path(source).expanduser().stat().st_size, rate)
    if isinstance(source, (bytes, bytearray)) or _is_file(source):
        return expected_bytes_of_file(len(source), rate)
    if isinstance(source, Mapping):
        if (samples := _samples_in(source)) is not None:
            rates = (source[key] for key in RATE_KEYS if source.get(key) is not None)
            return _bytes_of(samples, next(rates), rate)
        return _expected(source["path"] if source.get("bytes") is None else source["bytes"], rate)
    if isinstance(source, (tuple, list)) and _is_pair(source):
        first, second = source
        samples, its_rate = (second, first) if _is_number(first) else (first, second)
        return _bytes_of(samples, its_rate, rate)
    if callable(getattr(source, "get_all_samples", None)):  # torchcodec's AudioDecoder
        return int(source.metadata.duration_seconds * rate) * SAMPLE_BYTES
    if hasattr(source, "sample_rate") and hasattr(source, "data"):  # torchcodec's AudioSamples
        return _bytes_of(source.data, source.sample_rate, rate)
    if callable(getattr(source, "read", None)):
        if hasattr(source, "nbytes"):  # it knows what its samples will take
            return int(source.nbytes)
        return expected_bytes_of_file(_size_of_stream(source), rate)
    return _bytes_of(source, rate, rate)


def _bytes_of(samples: Any, samples_rate: Any, rate: int) -> int:
    """Of samples [n] or of several channels, which become one, at another rate."""
    shape = samples.shape if hasattr(samples, "shape") else (len(samples), *_inner(samples))
    count = prod(shape) // (min(shape) if len(shape) > 1 else 1)
    return int(count * rate / samples_rate) * SAMPLE_BYTES


def _inner(samples: Any) -> tuple[int, ...]:
    """The length of the lists in a list of lists."""
    return (len(samples[0]),) if len(samples) and hasattr(samples[0], "__len__") else ()


def _size_of_stream(file: Any) -> int:
    """In bytes, of an open file."""
    if not file.seekable():
        return UNKNOWN_BYTES
    with kept_place(file):
        return int(file.seek(0, io.SEEK_END))


def expected_bytes_of_file(size: int, rate: int) -> int:
    """As `expected_bytes`, of a file with `size` bytes."""
    return min(_longest_bytes(rate), EXPANSION * size)


def _longest_bytes(rate: int) -> int:
    return MAX_SECONDS * rate * SAMPLE_BYTES


def _read(source: AudioInput, rate: int) -> Sound:
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, rate)
    if isinstance(source, (bytes, bytearray)):
        return _read_bytes(source, rate)
    if isinstance(source, memoryview):
        is_file = _is_file(source)
        return _read_bytes(source, rate) if is_file else Sound(read_array(source, rate, rate))
    if isinstance(source, Mapping):
        return _read_mapping(source, rate)
    if isinstance(source, (tuple, list)) and _is_pair(source):
        return _read_pair(source, rate)
    if isinstance(source, list):
        return Sound(read_array(_samples_only(source), rate, rate))
    if isinstance(source, (np.ndarray, array)) or is_tensor(source) or hasattr(source, "__array__"):
        return Sound(read_array(source, rate, rate))
    if callable(getattr(source, "get_all_samples", None)):  # torchcodec's AudioDecoder
        return _read_decoder(source, rate)
    if hasattr(source, "sample_rate") and hasattr(source, "data"):  # torchcodec's AudioSamples
        return Sound(read_array(source.data, source.sample_rate, rate))
    if callable(getattr(source, "read", None)):
        return _read_stream(source, rate)
    raise AudioError(f"audio must be {FORMS.format(rate=rate)}; not {_shown(source)}")


# ---------------------------------------------------------------------- files


def _is_file(source: Any) -> bool:
    """Whether `source` is a view of a file's bytes, and not of samples."""
    return isinstance(source, memoryview) and source.itemsize == 1 and source.ndim == 1


def _read_path(source: str | os.PathLike[Any], rate: int) -> Sound:
    name = os.fsdecode(source)
    if not name:
        raise AudioError("the path of the recording is empty")
    if "://" in name[:16]:
        raise AudioError(f"{name[:200]}: addresses are not fetched; give the bytes behind it")
    path = Path(name).expanduser()
    try:
        status = path.stat()
    except FileNotFoundError:
        raise AudioError(f"{_short(name)}: no such file") from None
    except (OSError, ValueError) as error:  # too long for a name, or with a null byte in it
        raise AudioError(
            f"{_short(name)}: cannot be opened ({error.args[-1]}). A text is taken for a path: "
            "decode base64 before and give the bytes"
        ) from error
    if path.is_dir():
        raise AudioError(f"{name}: is a folder")
    if path.is_file() and status.st_size == 0:
        raise AudioError(f"{name}: the file is empty")
    # Absolute, because FFmpeg takes what precedes a colon in a relative name for a protocol.
    return read_file(os.path.abspath(path), name, rate)


def _read_bytes(content: bytes | bytearray | memoryview, rate: int) -> Sound:
    if not content:
        raise AudioError("0 bytes are not readable as audio")
    return read_file(io.BytesIO(content), f"{len(content)} bytes of audio", rate)


def _read_stream(file: Any, rate: int) -> Sound:
    """Reads a file object from its position, or from its start if its position is its end."""
    if isinstance(file, io.TextIOBase):
        raise AudioError(f"{_shown(file)} gives text: open it with mode 'rb'")
    content = file.read()
    if content == b"" and file.seekable():
        file.seek(0)  # the caller has just written it
        content = file.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        hint = ": give its 'file'" if hasattr(content, "__await__") else ""
        if hasattr(content, "close"):
            content.close()  # a coroutine that nobody will await
        raise AudioError(f"{_shown(file)}: read() gives {type(content).__name__}, not bytes{hint}")
    return _read_bytes(content, rate)


# ---------------------------------------------------------------------- samples


def _samples_in(source: Mapping[Any, Any]) -> Any:
    return next((source[key] for key in SAMPLE_KEYS if source.get(key) is not None), None)


def _read_mapping(source: Mapping[Any, Any], rate: int) -> Sound:
    """Reads a row of Hugging Face's datasets, or what its pipelines take."""
    if (samples := _samples_in(source)) is not None:
        for key in RATE_KEYS:
            if source.get(key) is not None:
                return Sound(read_array(samples, source[key], rate))
        raise AudioError("a mapping with samples needs their 'sampling_rate' (Hz)")
    if source.get("bytes") is not None:
        return _read(source["bytes"], rate)
    if source.get("path") is not None:
        return _read_path(source["path"], rate)
    keys = ", ".join(repr(key) for key in list(source)[:10]) or "nothing"
    hint = " Give the value of 'audio' alone." if "audio" in source else ""
    raise AudioError(
        "a mapping must hold 'array' and 'sampling_rate', or 'bytes', or 'path'; "
        f"this one has {keys}.{hint}"
    )


def _is_pair(source: tuple[Any, ...] | list[Any]) -> bool:
    """(samples, rate) or (rate, samples). A list of two may also be two channels or samples."""
    if isinstance(source, tuple):
        return True
    return len(source) == 2 and sum(_is_number(item) for item in source) == 1


def _read_pair(source: tuple[Any, ...] | list[Any], rate: int) -> Sound:
    if len(source) != 2:
        raise AudioError(
            f"audio as a tuple must be (samples, rate), not {len(source)} values; "
            "samples alone are a list or an array"
        )
    samples, samples_rate = source
    if _is_number(samples) and not _is_number(samples_rate):
        samples, samples_rate = samples_rate, samples
    whole_rate(samples_rate)
    if _is_number(samples) or isinstance(samples, (str, bytes, Mapping, Path)):
        raise AudioError(f"in (samples, rate) the samples are {_shown(samples)}, not an array")
    return Sound(read_array(samples, samples_rate, rate))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) or getattr(value, "ndim", None) == 0


def _samples_only(source: list[Any]) -> list[Any]:
    first = source[0] if source else None
    if isinstance(first, (str, os.PathLike, bytes, Mapping)):
        raise AudioError(
            f"a list must hold samples, not {_shown(first)}: "
            "for several recordings call transcribe_all()"
        )
    return source


def _read_decoder(decoder: Any, rate: int) -> Sound:
    metadata = getattr(decoder, "metadata", None)
    seconds = getattr(metadata, "duration_seconds", None)
    if seconds is not None and seconds > MAX_SECONDS:
        raise too_long(f"the {type(decoder).__name__}")
    decoded = decoder.get_all_samples()
    return Sound(read_array(decoded.data, decoded.sample_rate, rate))


# ---------------------------------------------------------------------- names in messages


def _shown(value: Any) -> str:
    """A value's type, and the value itself if it is short."""
    text = repr(value) if isinstance(value, (str, int, float, bytes, Path)) else ""
    kind = type(value).__name__
    return f"{kind} {text}" if 0 < len(text) <= 60 else kind


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:60]}… ({len(name)} characters)"
