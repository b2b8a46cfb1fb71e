"""Recordings in the forms that callers have them, as the content of an upload."""

import io
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

MODEL_RATE = 16_000  # Hz, of samples that come without a rate
HIGHEST_RATE = 1_000_000  # Hz
TAGS = {"B": 1, "h": 1, "f": 3}  # of a WAV file: whole numbers or floats, by their format
# A path, the bytes of a file, a file object, samples, or (samples, rate): a list, or any object
# with `tolist()`, of floats in [-1, 1] or 16-bit integers, [n]; uint8 is as in 8-bit WAV.
Sound = Any


def content_of(sound: Sound) -> tuple[str, bytes]:
    """A file name and the content. Raises ValueError, and OSError for a file."""
    if isinstance(sound, (str, os.PathLike)):
        path = Path(sound).expanduser()
        return path.name, path.read_bytes()
    is_view = isinstance(sound, memoryview) and sound.itemsize == sound.ndim == 1
    if is_view or isinstance(sound, (bytes, bytearray)):
        return "audio", bytes(sound)
    if callable(getattr(sound, "read", None)):
        content = sound.read()
        if not isinstance(content, bytes):
            raise ValueError("the file object gives text: open it with mode 'rb'")
        return os.path.basename(str(getattr(sound, "name", "audio"))), content
    if isinstance(sound, tuple) and len(sound) == 2:
        samples, rate = sound
        if isinstance(samples, Real):
            samples, rate = rate, samples
        return "audio.wav", wav(samples, _checked(rate))
    return "audio.wav", wav(sound, MODEL_RATE)


def _checked(rate: Any) -> int:
    """Raises ValueError."""
    try:
        number = int(rate)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if not 1 <= number <= HIGHEST_RATE:
        raise ValueError(f"the rate must be 1 to {HIGHEST_RATE} Hz, not {rate!r:.40}")
    return number


def wav(samples: Any, rate: int) -> bytes:
    """Mono samples [n] as a WAV file: bytes without a sign as 8-bit ones, other integers as 16-bit
    ones, others as 32-bit floats."""
    shape = getattr(samples, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(f"samples must have shape [n], not {list(shape)}: mix the channels")
    if (native := _native_bytes(samples)) is not None:
        return _file(*native, rate)
    values: Sequence[Any] = ()
    if hasattr(samples, "tolist"):
        values = samples.tolist()
    elif isinstance(samples, Iterable):
        values = list(samples)
    if not values or not isinstance(values[0], Real):
        raise ValueError(
            "give a path, bytes, a file object, samples [n], or (samples, rate), not "
            f"{type(samples).__name__}"
        )
    whole = isinstance(values[0], Integral)
    try:
        data = struct.pack(f"<{len(values)}{'h' if whole else 'f'}", *values)
    except struct.error as error:
        raise ValueError(f"samples must be floats in [-1, 1] or 16-bit integers: {error}") from None
    return _file(data, "h" if whole else "f", rate)


def _native_bytes(samples: Any) -> tuple[bytes, str] | None:
    """The bytes of an array [n] that is stored as the file stores it, and the format of a number:
    without a list of them, which takes a hundred times as long. None for anything else."""
    try:
        view = memoryview(samples)
    except (TypeError, ValueError, BufferError):
        return None
    if view.format not in TAGS or sys.byteorder != "little" or not view.nbytes:
        return None
    return view.tobytes(), view.format


def _file(data: bytes, number: str, rate: int) -> bytes:
    """`number`: its format, as of `struct`."""
    width = struct.calcsize(number)
    header = struct.pack("<HHIIHH", TAGS[number], 1, rate, rate * width, width, 8 * width)
    file = io.BytesIO()
    file.write(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE")
    file.write(b"fmt " + struct.pack("<I", len(header)) + header)
    file.write(b"data" + struct.pack("<I", len(data)) + data)
    return file.getvalue()
