"""The output folder on a local disk."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from antiphon.config.errors import ConfigurationError
from antiphon.jobs.storage import is_whole


class LocalFolder:
    def __init__(self, path: Path) -> None:
        self.url, self._path = str(path), path
        path.mkdir(parents=True, exist_ok=True)
        self._lock_file: int | None = None

    def exists(self, name: str) -> bool:
        return (self._path / name).exists()

    def names(self, folder: str) -> list[str]:
        path = self._path / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def open(self, name: str) -> IO[bytes]:
        return (self._path / name).open("rb")

    def write(self, name: str, writing: Callable[[IO[bytes]], object]) -> None:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                writing(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self._path / name).unlink()

    def log(self, name: str) -> "LocalLog":
        (self._path / name).parent.mkdir(parents=True, exist_ok=True)
        return LocalLog(self._path, name)

    def visible_log(self, name: str) -> "LocalLog":
        return self.log(name)

    def lock(self, name: str) -> None:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"--output {self.url}: another process is writing there. Wait for it, or end it"
            ) from None

    def close(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


class LocalLog:
    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._path = folder, folder / name
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._size = _whole_lines(self._path)
        os.ftruncate(self._file, self._size)

    def append(self, line: bytes) -> None:
        rest = line
        try:
            while rest:  # a file takes less than the whole only when the disk is nearly full
                rest = rest[os.write(self._file, rest) :]
        except BaseException:  # lines of others may follow: not behind half a line
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def checkpoint(self) -> None:
        os.fsync(self._file)

    def lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from file

    def publish(self, name: str) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._path.replace(self._folder / name)

    def show(self) -> None:
        """Nothing to do."""

    def remove(self) -> None:
        os.close(self._file)
        self._path.unlink()

    def close(self) -> None:
        os.close(self._file)


def _whole_lines(path: Path) -> int:
    """The bytes of the lines that were written in whole: a kill can cut the last one,
    and a crash of the machine can leave zeros behind it."""
    size = 0
    with path.open("rb") as file:
        for line in file:
            if not is_whole(line):
                break
            size += len(line)
    return size
