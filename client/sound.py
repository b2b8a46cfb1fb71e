"""Recordings in the forms that callers have them, as the content of an upload."""

import io
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MODEL_RATE = 16_000  # Hz, of samples that come without a rate
# A path, the bytes of a file, a file object, samples, or (samples, rate): a list, or any object
# with `tolist()`, of floats in [-1, 1] or 16-bit integers, [n].
Sound = Any


def content_of(sound: Sound) -> tuple[str, bytes]:
    """A file name and the content. Raises ValueError, and OSError for a file."""
    if isinstance(sound, (str, os.PathLike)):
        path = Path(sound).expanduser()
        return path.name, path.read_bytes()
    if isinstance(sound, (bytes, bytearray)):
        return "audio", bytes(sound)
    if callable(getattr(sound, "read", None)):
        content = sound.read()
        if not isinstance(content, bytes):
            raise ValueError("the file object gives text: open it with mode 'rb'")
        return os.path.basename(str(getattr(sound, "name", "audio"))), content
    if isinstance(sound, tuple) and len(sound) == 2:
        samples, rate = sound
        if isinstance(samples, (int, float)):
            samples, rate = rate, samples
        return "audio.wav", wav(samples, int(rate))
    return "audio.wav", wav(sound, MODEL_RATE)


def wav(samples: Any, rate: int) -> bytes:
    """Mono samples [n] as a WAV file: integers as 16-bit ones, others as 32-bit floats."""
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
    if not values or not isinstance(values[0], (int, float)):
        raise ValueError(
            "give a path, bytes, a file object, samples [n], or (samples, rate), not "
            f"{type(samples).__name__}"
        )
    whole = isinstance(values[0], int)
    try:
        data = struct.pack(f"<{len(values)}{'h' if whole else 'f'}", *values)
    except struct.error as error:
        raise ValueError(f"samples must be floats in [-1, 1] or 16-bit integers: {error}") from None
    return _file(data, whole, rate)


def _native_bytes(samples: Any) -> tuple[bytes, bool] | None:
    """The bytes of an array [n] that is stored as the file stores it, and whether its numbers are
    whole: without a list of them, which takes a hundred times as long. None for anything else."""
    try:
        view = memoryview(samples)
    except (TypeError, ValueError, BufferError):
        return None
    if view.format not in ("h", "f") or sys.byteorder != "little" or not view.nbytes:
        return None
    return view.tobytes(), view.format == "h"


def _file(data: bytes, whole: bool, rate: int) -> bytes:
    width = 2 if whole else 4
    header = struct.pack("<HHIIHH", 1 if whole else 3, 1, rate, rate * width, width, 8 * width)
    file = io.BytesIO()
    file.write(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE")
    file.write(b"fmt " + struct.pack("<I", len(header)) + header)
    file.write(b"data" + struct.pack("<I", len(data)) + data)
    return file.getvalue()
