"""Tensors out of CTranslate2's `model.bin`, by transformers' names.

The file is mapped into memory, and a read copies the rows that are asked for, nothing else.
Eight-bit rows are multiplied out as they are read: each has one scale, and `quantization="int8"`
finds the same eight-bit numbers and scales in them again.
"""

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from antiphon.families.ctranslate2 import tensor_sources
from antiphon.families.ctranslate2_file import Variable
from antiphon.families.ctranslate2_names import Source

INTEGERS = ("int8", "int16")  # with a scale: the number is the stored one divided by it


class CTranslate2Tensors:
    """A `TensorFile`. Raises CheckpointError for a file that is not of this format."""

    def __init__(self, path: Path) -> None:
        self._file, self._sources = tensor_sources(path.parent)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def keys(self) -> Iterable[str]:
        return self._sources

    def get_tensor(self, name: str) -> torch.Tensor:
        stored = self.get_slice(name)
        return stored[tuple(slice(size) for size in stored.get_shape())]

    def get_slice(self, name: str) -> "StoredRows":
        source = self._sources[name]
        variable = self._file.variables[source.variable]
        scale = self._file.variables.get(f"{source.variable}_scale")
        scales = None if scale is None or variable.dtype not in INTEGERS else self._array(scale)
        rows = self._array(variable)[source.first : source.last]
        if scales is not None and scales.ndim:
            scales = scales[source.first : source.last]
        return StoredRows(rows, scales, source, variable.dtype)

    def _array(self, variable: Variable) -> np.ndarray:
        """A view of the mapped file, at any byte of it."""
        # numpy has no bfloat16: its bits stand in for it until torch has them.
        dtype = np.dtype("int16" if variable.dtype == "bfloat16" else variable.dtype)
        return np.ndarray(variable.shape, dtype.newbyteorder("<"), self._map, variable.offset)


class StoredRows:
    """A `StoredTensor`: rows of the file, divided by their scales, with rows of zeros around."""

    def __init__(
        self, rows: np.ndarray, scales: np.ndarray | None, source: Source, dtype: str
    ) -> None:
        self._rows, self._scales, self._source, self._dtype = rows, scales, source, dtype

    def get_shape(self) -> list[int]:
        rows, *others = self._rows.shape
        return [self._source.before + rows + self._source.behind, *others]

    def __getitem__(self, index: tuple[slice, ...]) -> torch.Tensor:
        first, last, _ = index[0].indices(self.get_shape()[0])
        before, count = self._source.before, len(self._rows)
        own = slice(min(max(first - before, 0), count), min(max(last - before, 0), count))
        tensor = self._read((own, *index[1:]))
        absent = (max(before - first, 0), max(last - max(first, before + count), 0))
        if not any(absent):
            return tensor
        around = [tensor.new_zeros(rows, *tensor.shape[1:]) for rows in absent]
        return torch.cat([around[0], tensor, around[1]])

    def _read(self, index: tuple[slice, ...]) -> torch.Tensor:
        rows = self._rows[index]
        if self._scales is not None:
            scales = self._scales[index[0]] if self._scales.ndim else self._scales
            scales = scales.astype(np.float32).reshape(-1, *[1] * (rows.ndim - 1))
            return torch.from_numpy(rows.astype(np.float32) / scales)
        tensor = torch.from_numpy(np.array(rows))
        return tensor.view(torch.bfloat16) if self._dtype == "bfloat16" else tensor
