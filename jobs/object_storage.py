"""The output folder in an object store, or on any other file system of fsspec."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from antiphon.jobs.storage import PRIVATE, is_whole

BLOCK_BYTES = 1 << 20


class ObjectFolder:
    """On any file system of fsspec."""

    def __init__(self, url: str, files: Any, path: str) -> None:
        self.url, self._files, self._path = url.rstrip("/"), files, path.rstrip("/")
        files.makedirs(self._path, exist_ok=True)

    def exists(self, name: str) -> bool:
        return bool(self._files.exists(self._at(name)))

    def names(self, folder: str) -> list[str]:
        path = self._at(folder).rstrip("/")
        self._files.invalidate_cache(path)  # another process may have written there
        try:
            entries = self._files.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for entry in entries if (name := entry.rstrip("/").rpartition("/")[2]))

    def open(self, name: str) -> Any:
        return self._files.open(self._at(name), "rb")

    def write(self, name: str, writing: Callable[[IO[bytes]], object]) -> None:
        """By a file of this machine: one that is open in a store appears there when it is closed,
        also if `writing` has failed."""
        path = self._at(name)
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="antiphon-") as folder:
            local = Path(folder, "whole")
            with local.open("wb") as file:
                writing(file)
            self._files.put_file(str(local), path)

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
                yield from (line for line in file if is_whole(line))

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
