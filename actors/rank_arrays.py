"""Arrays of a rank's commands as bytes, and back."""

from typing import Any

import numpy as np

from antiphon.scheduler.beam_plan import NO_MOVES, BeamMoves
from antiphon.scheduler.plan import PlannedDrafts


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


def moves_bytes(moves: BeamMoves) -> tuple[bytes, bytes]:
    """All but the pages, int64 [5, n]; and the pages."""
    if not len(moves):
        return b"", b""
    rows = longs(moves.slots, moves.ids, moves.sources, moves.positions, moves.tokens)
    return rows, pages_bytes(moves.self_pages)


def moves_of(rows: bytes, pages: bytes) -> BeamMoves:
    if not rows:
        return NO_MOVES
    slots, ids, sources, positions, tokens = rows_of(rows, 5)
    table = pages_of(pages).reshape(len(slots), -1)
    return BeamMoves(slots, ids, sources, positions, tokens, table)


def drafts_bytes(drafts: PlannedDrafts | None) -> tuple[int, bytes, bytes]:
    """How many of a row there are at most; counts and lags, int64 [2, rows]; and the tokens, where
    they are known."""
    if drafts is None:
        return 0, b"", b""
    tokens = b"" if drafts.tokens is None else longs(drafts.tokens[:, : drafts.most].reshape(-1))
    return drafts.most, longs(drafts.counts, drafts.lags), tokens


def drafts_of(most: int, rows: bytes, tokens: bytes) -> PlannedDrafts | None:
    if not most:
        return None
    counts, lags = rows_of(rows, 2)
    table = rows_of(tokens, 1).reshape(-1, most) if tokens else None
    return PlannedDrafts(counts, most, table, lags)
