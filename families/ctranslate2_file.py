"""The header of CTranslate2's `model.bin`: which variables it holds, and where.

The file is little-endian (CTranslate2's `python/ctranslate2/specs/model_spec.py`): the version of
the format, the model's kind and its revision; the number of variables, and for each its name, rank,
dimensions, type, size in bytes and data; then the number of aliases, and for each its name and the
variable that it stands for. A string is its length in two bytes, then its bytes with a zero behind.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from antiphon.config.errors import CheckpointError

FILE_NAME = "model.bin"
VERSIONS = range(4, 7)  # of the format; before 4 a variable's type was not stored
MAX_RANK, MAX_NAME = 8, 4096  # beyond these the file is no header
# By the number that the file stores: the type's name, its size in bytes, and struct's letter.
DTYPES = (
    ("float32", 4, "f"), ("int8", 1, "b"), ("int16", 2, "h"), ("int32", 4, "i"),
    ("float16", 2, "e"), ("bfloat16", 2, ""),
)  # fmt: skip


@dataclass(frozen=True)
class Variable:
    """One array of the file. `offset`: of its first byte from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        size = next(size for name, size, _ in DTYPES if name == self.dtype)
        return size * math.prod(self.shape)


@dataclass(frozen=True)
class ModelFile:
    """`variables`: by name, aliases included. `aliases`: the variable that each stands for."""

    path: Path
    kind: str  # 'WhisperSpec', 'TransformerSpec', ...
    variables: Mapping[str, Variable]
    aliases: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "ModelFile":
        """Raises CheckpointError for a file that is not of this format, or is cut off."""
        path = folder / FILE_NAME
        try:
            with path.open("rb") as file:
                return _Reader(path, file).read()
        except (OSError, struct.error, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{path} can't be read as a model in CTranslate2's format ({error}): is it cut "
                "off, or of another format?"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises CheckpointError for a variable that is not there."""
        return self._variable(name).shape

    def same(self, first: str, second: str) -> bool:
        """Whether two names stand for one variable."""
        return self.aliases.get(first, first) == self.aliases.get(second, second)

    def number(self, name: str, default: float | None = None) -> float:
        """The first number of a variable: a scalar's value. Raises CheckpointError where the
        variable is not there and has no default."""
        if name not in self.variables and default is not None:
            return default
        variable = self._variable(name)
        letter = next(letter for dtype, _, letter in DTYPES if dtype == variable.dtype)
        if not letter:  # bfloat16 is the upper half of a float32
            return float(struct.unpack("<f", b"\0\0" + self._bytes(variable, 2))[0])
        return float(struct.unpack(f"<{letter}", self._bytes(variable, struct.calcsize(letter)))[0])

    def layers(self, side: str) -> int:
        """The number of layers of the encoder or the decoder."""
        layer = re.compile(rf"{side}/layer_(\d+)/")
        numbers = {match[1] for name in self.variables if (match := layer.match(name))}
        return len(numbers)

    def _variable(self, name: str) -> Variable:
        if name not in self.variables:
            raise CheckpointError(f"{self.path}, of kind {self.kind}, lacks the variable {name}")
        return self.variables[name]

    def _bytes(self, variable: Variable, count: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(variable.offset)
            return file.read(count)


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = path.stat().st_size

    def read(self) -> ModelFile:
        (version,) = self._numbers("I")
        if version not in VERSIONS:
            raise CheckpointError(
                f"{self._path} has version {version} of CTranslate2's format; those from "
                f"{VERSIONS.start} to {VERSIONS.stop - 1} are read: convert the model anew"
            )
        kind = self._string()
        _revision, count = self._numbers("II")
        variables = dict(self._variable() for _ in range(count))
        (count,) = self._numbers("I")
        aliases = {self._string(): self._string() for _ in range(count)}
        for alias, name in aliases.items():
            if name not in variables:
                raise struct.error(f"{alias[:60]!r} stands for {name[:60]!r}, which is not there")
            for suffix in ("", "_scale"):
                if f"{name}{suffix}" in variables:
                    variables[f"{alias}{suffix}"] = variables[f"{name}{suffix}"]
        return ModelFile(self._path, kind, variables, aliases)

    def _variable(self) -> tuple[str, Variable]:
        name = self._string()
        (rank,) = self._numbers("B")
        if rank > MAX_RANK:
            raise struct.error(f"{name[:60]!r} with {rank} dimensions")
        shape = self._numbers(f"{rank}I")
        dtype, num_bytes = self._numbers("BI")
        if dtype >= len(DTYPES):
            raise struct.error(f"{name[:60]!r} of type {dtype}")
        variable = Variable(DTYPES[dtype][0], shape, self._file.tell())
        # The size is stored in four bytes, whatever it is.
        if variable.num_bytes % 2**32 != num_bytes:
            raise struct.error(f"{name[:60]!r} of shape {shape} with {num_bytes} bytes")
        end = variable.offset + variable.num_bytes
        if end > self._size:
            raise struct.error(f"{name[:60]!r} ends at byte {end} of {self._size}")
        self._file.seek(end)
        return name, variable

    def _numbers(self, layout: str) -> tuple[int, ...]:
        packed = struct.Struct(f"<{layout}")
        return packed.unpack(self._file.read(packed.size))

    def _string(self) -> str:
        (size,) = self._numbers("H")
        if not 0 < size <= MAX_NAME:
            raise struct.error(f"a name of {size} bytes")
        content = self._file.read(size)
        if len(content) < size:
            raise struct.error(f"a name of {size} bytes, of which {len(content)} are there")
        return content.rstrip(b"\0").decode()
