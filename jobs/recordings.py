"""The recordings that lines name: local files and addresses, whole or in part."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.forms import load_audio

ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|[a-zA-Z][a-zA-Z0-9+.-]*::")  # as fsspec has them


def located(name: str, folder: str) -> Path | str:
    """An address, or the path of a local file. `folder`: what relative paths begin at, which may be
    an address too."""
    if not ADDRESS.match(name):
        path = Path(name).expanduser()
        if path.is_absolute() or not ADDRESS.match(folder):
            return Path(folder).expanduser() / path
        name = f"{folder.rstrip('/')}/{name}"
    for prefix in ("file://", "local://"):
        if name.startswith(prefix):
            return Path(name.removeprefix(prefix))
    return name


def size_of(address: str) -> int:
    """Bytes; 0 where the server does not tell. May raise anything, as clients of object stores
    have errors of their own."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(address)
    return int(files.info(path).get("size") or 0)


def fetch(address: str) -> bytes:
    """Raises as `size_of`."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(address)
    content: bytes = files.cat_file(path)
    return content


def part(audio: Any, rate: int, offset: float, duration: float | None) -> np.ndarray:
    """The samples [n] from `offset` seconds on, a copy: the whole recording is let go. Raises
    AudioError if the recording ends before it begins."""
    samples = load_audio(audio, rate)
    first = round(offset * rate)
    last = len(samples) if duration is None else min(len(samples), first + round(duration * rate))
    if first >= len(samples):
        raise AudioError(
            f"offset={offset:g}, but the recording has {len(samples) / rate:.2f} seconds"
        )
    return samples[first:last].copy()
