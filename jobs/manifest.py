"""The lines of a manifest, from a file of any file system or standard input, one at a time."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from antiphon.config.errors import ConfigurationError
from antiphon.jobs.line_set import LineSet

STANDARD_INPUT = "-"
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20  # a file without line feeds must not fill the memory
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """`number` counts from 1, blank lines included, as editors do. `content` is None
    for a line of more than MAX_LINE_BYTES."""

    number: int
    content: bytes | None


@dataclass(frozen=True)
class Survey:
    """`lines`: those that are not blank. `sha256`: of the content as it is read."""

    lines: int
    bytes: int
    sha256: str


class Manifest:
    """`name` is a path, an address that fsspec knows (`s3://...`), or `-`. A name that
    ends with .gz, .bz2, .xz or .zst is unpacked.

    Standard input is copied to a temporary file first: it must be known in whole, and read twice.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._copy: IO[bytes] | None = None
        if name == STANDARD_INPUT:
            self._copy = tempfile.TemporaryFile(prefix="antiphon-manifest-")  # noqa: SIM115
            shutil.copyfileobj(sys.stdin.buffer, self._copy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            self._copy.close()

    @property
    def folder(self) -> str:
        """What relative paths in the manifest begin at."""
        if self.name == STANDARD_INPUT:
            return "."
        folder, slash, _ = self.name.rpartition("/")
        return folder + slash or "."

    def check(self) -> None:
        """Raises ConfigurationError if it cannot be opened."""
        with self._opened() as file:
            file.read(1)

    def survey(self) -> Survey:
        """Reads the whole manifest once. Raises ConfigurationError if it cannot be read."""
        digest = hashlib.sha256()
        size = count = 0

        def note(block: bytes) -> None:
            nonlocal size
            digest.update(block)
            size += len(block)

        with self._opened() as file:
            for _ in _lines(file, note):
                count += 1
        return Survey(count, size, digest.hexdigest())

    def lines(self, done: LineSet) -> Iterator[Line]:
        """The lines that are neither blank nor in `done`. Raises ConfigurationError."""
        with self._opened() as file:
            for line in _lines(file):
                if line.number not in done:
                    yield line

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self._copy is not None:
            self._copy.seek(0)
            yield self._copy
            return
        import fsspec

        name = self.name if "://" in self.name else str(Path(self.name).expanduser())
        try:
            with fsspec.open(name, "rb", compression="infer") as file:
                yield file
        except Exception as error:  # the clients of object stores have errors of their own
            raise ConfigurationError(f"cannot read the manifest {self.name}: {error}") from error


def _lines(file: IO[bytes], note: Callable[[bytes], object] = len) -> Iterator[Line]:
    """The lines that are not blank. `note` is called with every block that is read."""
    number, begun, too_long = 0, b"", False
    while block := file.read(BLOCK_BYTES):
        note(block)
        if number == 0 and not begun:
            block = block.removeprefix(BYTE_ORDER_MARK)
        first, *others = block.split(b"\n")
        pieces = [begun + first, *others]
        begun = pieces.pop()
        for piece in pieces:
            number += 1
            if too_long or piece.strip():
                yield Line(number, None if too_long or len(piece) > MAX_LINE_BYTES else piece)
            too_long = False
        if len(begun) > MAX_LINE_BYTES:
            too_long, begun = True, b""
    if too_long or begun.strip():
        yield Line(number + 1, None if too_long else begun)
