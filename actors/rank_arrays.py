"""Arrays of a rank's commands as bytes, and back."""

from typing import Any

import numpy as np


def longs(*rows: Any) -> bytes:
    """`rows` [n] of whole numbers, all of one length, as int64 [rows, n]."""
    table = np.empty((len(rows), len(rows[0])), np.int64)
    for target, row in zip(table, rows, strict=True):
        target[:] = row
    return table.tobytes()


def pages_bytes(pages: np.ndarray) -> bytes:
    return pages.astype(np.int32, copy=False).tobytes()


def rows_of(content: bytes, count: int) -> np.ndarray:
    """int64 [count, n]. A copy: tensors are made of arrays that can be written alone."""
    return np.frombuffer(bytearray(content), np.int64).reshape(count, -1)


def pages_of(content: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(content), np.int32)
