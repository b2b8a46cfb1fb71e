"""Dynamic time warping on the host, compiled with Numba."""

import numpy as np

from antiphon.kernels.numba_cache import compiled, make_ready

_BOTH, _NEXT_ROW, _NEXT_COLUMN = 0, 1, 2


@compiled(nogil=True)
def _warp(scores, steps, first):
    """The path from the first row and column to the last ones with the highest sum of `scores`
    [rows, columns] float64, in steps to the next row, the next column, or both.

    Writes the column at which the path enters each row into `first` [rows] int64; `steps` [rows,
    columns] uint8 is scratch. Of equal ways the step to the next column comes first, then both.
    Sums are float32, as openai/whisper has them, so that ties fall out alike.
    """
    rows, columns = scores.shape
    costs = np.full(columns + 1, np.float32(np.inf), np.float32)  # of the row before, from column 1
    costs[0] = 0
    for row in range(rows):
        left, diagonal = np.float32(np.inf), costs[0]
        for column in range(columns):
            above = costs[column + 1]
            if diagonal < above and diagonal < left:
                best, steps[row, column] = diagonal, _BOTH
            elif above < diagonal and above < left:
                best, steps[row, column] = above, _NEXT_ROW
            else:
                best, steps[row, column] = left, _NEXT_COLUMN
            left = np.float32(np.float64(best) - scores[row, column])
            costs[column + 1], diagonal = left, above
        costs[0] = np.float32(np.inf)
    row, column = rows - 1, columns - 1
    while row >= 0:
        first[row] = column
        step = steps[row, column]
        if column == 0 or step != _NEXT_COLUMN:
            row -= 1
        if column > 0 and step != _NEXT_ROW:
            column -= 1


def first_columns(scores: np.ndarray) -> np.ndarray:
    """For each row [rows] int64 of `scores` [rows, columns], both at least 1, the column at which
    the best path enters it. They never fall."""
    first = np.zeros(len(scores), np.int64)
    _warp(np.ascontiguousarray(scores, np.float64), np.empty(scores.shape, np.uint8), first)
    return first


def make_kernels_ready() -> None:
    """Compiles the kernel or reads it from disk."""
    one = np.zeros((1, 1))
    make_ready(_warp, one, one.astype(np.uint8), np.zeros(1, np.int64))
