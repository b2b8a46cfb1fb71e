"""The output folder: whole files that appear at once, and logs that survive a kill.

On a local disk a log is one file that grows by a line at a time. Object stores cannot append: there
a log is a row of segments, each written whole at a checkpoint.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from antiphon.config.errors import ConfigurationError

BLOCK_BYTES = 1 << 20
PRIVATE = "_antiphon"  # readers of a folder of data pass over names that begin with _


class Log(Protocol):
    """Lines in the order of writing. Only `append` is called in the event loop."""

    def append(self, line: bytes) -> None:
        """One line, with its line feed."""

    def checkpoint(self) -> None:
        """After it, no line appended before is lost, whatever happens to this process."""

    def lines(self) -> Iterator[bytes]:
        """The lines that are there from before, without one that was cut by a kill."""

    def publish(self, name: str) -> None:
        """Makes all lines the file `name` of the folder, at once, and the log empty."""

    def show(self) -> None:
        """Readers of the folder see all lines; for a log made by `visible_log`."""

    def remove(self) -> None: ...

    def close(self) -> None:
        """Leaves the lines for a later run."""


class Storage(Protocol):
    """A folder. Names are relative to it."""

    url: str

    def exists(self, name: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """The files in a folder, without those in folders below; [] if there is no such folder."""

    def open(self, name: str) -> Any:
        """For reading, in a `with`."""

    def write(self, name: str, writing: Callable[[IO[bytes]], object]) -> None:
        """Makes a file of what `writing` writes; nobody sees it before it is complete."""

    def remove(self, name: str) -> None: ...

    def log(self, name: str) -> Log: ...

    def visible_log(self, name: str) -> Log:
        """A log that readers see as the file `name`: as it grows on a local disk, after `show`
        elsewhere."""

    def lock(self, name: str) -> None:
        """Held until `close`, or the end of this process. Raises ConfigurationError if another
        process holds it."""

    def close(self) -> None: ...


def open_storage(url: str) -> Storage:
    """A path, or an address that fsspec knows. Creates the folder. Raises ConfigurationError."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    try:
        if "://" not in url:
            return LocalFolder(Path(url).expanduser())
        files, path = url_to_fs(url)
        if isinstance(files, LocalFileSystem):
            return LocalFolder(Path(path))
        return ObjectFolder(url, files, path)
    except OSError as error:
        raise ConfigurationError(f"--output {url}: {error.strerror or error}") from error
    except Exception as error:  # unknown protocol, missing package, missing credentials
        raise ConfigurationError(f"--output {url}: {error}") from error


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


class _AnyObject(msgspec.Struct):
    """A JSON object with any keys."""


_OBJECTS = msgspec.json.Decoder(_AnyObject)


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
    """The bytes of the lines that were written in whole: a kill can cut the last one, and a crash
    of the machine can leave zeros behind it."""
    size = 0
    with path.open("rb") as file:
        for line in file:
            if not _is_whole(line):
                break
            size += len(line)
    return size


def _is_whole(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        _OBJECTS.decode(line)
    except msgspec.DecodeError:
        return False
    return True


class ObjectFolder:
    """On any file system of fsspec."""

    def __init__(self, url: str, files: Any, path: str) -> None:
        self.url, self._files, self._path = url.rstrip("/"), files, path.rstrip("/")
        files.makedirs(self._path, exist_ok=True)

    def exists(self, name: str) -> bool:
        return bool(self._files.exists(self._at(name)))

    def names(self, folder: str) -> list[str]:
        try:
            entries = self._files.ls(self._at(folder).rstrip("/"), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(name for entry in entries if (name := entry.rstrip("/").rpartition("/")[2]))

    def open(self, name: str) -> Any:
        return self._files.open(self._at(name), "rb")

    def write(self, name: str, writing: Callable[[IO[bytes]], object]) -> None:
        """An object appears when its file is closed."""
        path = self._at(name)
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self._files.open(path, "wb") as file:
            writing(file)

    def remove(self, name: str) -> None:
        self._files.rm_file(self._at(name))

    def log(self, name: str) -> "SegmentedLog":
        return SegmentedLog(self, name)

    def visible_log(self, name: str) -> "SegmentedLog":
        return self.log(f"{PRIVATE}/{name}")

    def lock(self, name: str) -> None:
        """Object stores have no locks."""

    def close(self) -> None:
        """Nothing to do."""

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


class SegmentedLog:
    """Segments `NAME.000000`, `NAME.000001`, ... beside each other."""

    def __init__(self, folder: ObjectFolder, name: str) -> None:
        self._folder, self._name = folder, name
        self._waiting: list[bytes] = []
        self._waiting_lock, self._writing = threading.Lock(), threading.Lock()
        parent, _, own = name.rpartition("/")
        self._segments = [
            f"{parent}/{entry}" for entry in folder.names(parent) if entry.startswith(f"{own}.")
        ]

    def append(self, line: bytes) -> None:
        with self._waiting_lock:
            self._waiting.append(line)

    def checkpoint(self) -> None:
        with self._writing:
            with self._waiting_lock:
                lines, self._waiting = self._waiting, []
            if not lines:
                return
            last = int(self._segments[-1].rpartition(".")[2]) if self._segments else -1
            segment = f"{self._name}.{last + 1:06d}"
            try:
                self._folder.write(segment, lambda file: file.write(b"".join(lines)))
            except BaseException:
                with self._waiting_lock:
                    self._waiting = lines + self._waiting
                raise
            self._segments.append(segment)

    def lines(self) -> Iterator[bytes]:
        for segment in self._segments:
            with self._folder.open(segment) as file:
                yield from (line for line in file if _is_whole(line))

    def publish(self, name: str) -> None:
        self.copy(name)
        self.remove()

    def show(self) -> None:
        self.copy(self._name.rpartition("/")[2])

    def copy(self, name: str) -> None:
        """Makes all lines the file `name`, and keeps the log."""
        self.checkpoint()

        def join(file: IO[bytes]) -> None:
            for segment in self._segments:
                with self._folder.open(segment) as part:
                    shutil.copyfileobj(part, file, BLOCK_BYTES)

        self._folder.write(name, join)

    def remove(self) -> None:
        for segment in self._segments:
            self._folder.remove(segment)
        self._segments = []

    def close(self) -> None:
        """Nothing to do."""
