"""From arguments (files, folders, patterns, lists, `-`) to recordings, checked before an engine
starts."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from antiphon.config.errors import AudioError, ConfigurationError

STANDARD_INPUT = "-"
# Files that are taken from a folder. A file that is named itself may have any suffix.
SUFFIXES = frozenset(
    [
        *(".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".m4b"),
        *(".mka", ".mp2", ".mp3", ".mpga", ".oga", ".ogg", ".opus", ".spx", ".wav", ".weba"),
        *(".wma", ".wv", ".3gp", ".avi", ".flv", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts"),
        *(".webm", ".wmv"),
    ]
)


@dataclass(frozen=True)
class Recording:
    """`name`: in messages and results. `stem`: of its output files, relative to the output folder;
    a file from a folder keeps its path below it."""

    name: str
    stem: Path

    def source(self) -> Path | bytes:
        """What the engine gets: a path, or the bytes of a pipe, which cannot be sought in. A file
        that cannot be read is left to the engine, whose error concerns this recording alone."""
        if self.name == STANDARD_INPUT:
            return sys.stdin.buffer.read()
        path = Path(self.name).expanduser()
        try:
            return path.read_bytes() if path.is_fifo() or path.is_char_device() else path
        except OSError:
            return path


def expand(arguments: Iterable[str], recursive: bool) -> tuple[list[Recording], list[AudioError]]:
    """Recordings in the order of the arguments, each once, and an error for each wrong argument and
    for each file that cannot be read."""
    recordings: list[Recording] = []
    errors: list[AudioError] = []
    known: set[str] = set()
    for argument in _with_lists(arguments, errors):
        try:
            for recording in _expand_one(argument, recursive):
                if (identity := _identity(recording.name)) not in known:
                    known.add(identity)
                    _take(recording, recordings, errors)
        except AudioError as error:
            errors.append(error)
    return recordings, errors


def _take(recording: Recording, recordings: list[Recording], errors: list[AudioError]) -> None:
    try:
        _check(recording.name)
        recordings.append(recording)
    except AudioError as error:
        errors.append(error)


def _with_lists(arguments: Iterable[str], errors: list[AudioError]) -> Iterator[str]:
    """Replaces `@list.txt` by the lines of that file."""
    for argument in arguments:
        if not argument.startswith("@") or Path(argument).exists():
            yield argument
            continue
        try:
            lines = Path(argument[1:]).expanduser().read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            errors.append(AudioError(f"{argument}: cannot read the list of files ({error})"))
            continue
        yield from (line.strip() for line in lines if line.strip())


def _expand_one(argument: str, recursive: bool) -> Iterator[Recording]:
    if argument == STANDARD_INPUT:
        yield Recording(STANDARD_INPUT, Path("stdin"))
        return
    if not argument:
        raise AudioError("an empty text is no name of a recording")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", argument):
        raise AudioError(f"{argument}: URLs are not read: download it first, then give the file")
    path = Path(argument).expanduser()
    if path.is_dir():
        yield from _in_folder(argument, path, recursive)
    elif path.exists() or not glob.has_magic(argument):
        yield Recording(argument, Path(path.stem))
    else:
        matches = sorted(glob.glob(str(path), recursive=True))
        files = [match for match in matches if Path(match).is_file()]
        if not files:
            raise AudioError(f"{argument}: no file matches this pattern")
        for match in files:
            yield Recording(match, Path(Path(match).stem))


def _in_folder(argument: str, folder: Path, recursive: bool) -> Iterator[Recording]:
    files = sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.glob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not files:
        deeper = "" if recursive else "; --recursive looks into its folders too"
        raise AudioError(f"{argument}: this folder holds no sound files{deeper}")
    for path in files:
        yield Recording(str(path), path.relative_to(folder).with_suffix(""))


def _check(name: str) -> None:
    path = Path(name).expanduser()
    if name == STANDARD_INPUT:
        return
    if not path.exists():
        raise AudioError(f"{name}: no such file")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{name}: may not be read (permissions)")
    if path.is_file() and path.stat().st_size == 0:
        raise AudioError(f"{name}: the file is empty")


def _identity(name: str) -> str:
    return name if name == STANDARD_INPUT else str(Path(name).expanduser().absolute())


@dataclass(frozen=True)
class OutputFolder:
    """Where the results of many recordings go: `call.mp3` to `call.txt`, `call.srt`, ..."""

    folder: Path
    formats: list[str]

    def paths(self, recording: Recording) -> dict[str, Path]:
        stem = self.folder / recording.stem
        return {name: stem.with_name(f"{stem.name}.{name}") for name in self.formats}

    def holds(self, recording: Recording) -> bool:
        return all(path.exists() for path in self.paths(recording).values())

    def check(self, recordings: list[Recording]) -> None:
        """Creates the folder. Raises ConfigurationError if it cannot be written to, or if two
        recordings would have the same output file."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"--output-dir {self.folder}: {error.strerror or error}"
            ) from None
        if not os.access(self.folder, os.W_OK):
            raise ConfigurationError(f"--output-dir {self.folder}: may not be written to")
        owners: dict[Path, Recording] = {}
        for recording in recordings:
            first = owners.setdefault(recording.stem, recording)
            if first is not recording:
                raise ConfigurationError(
                    f"{first.name} and {recording.name} would both be written to "
                    f"{self.paths(recording)[self.formats[0]]}: rename one, or use two folders"
                )
