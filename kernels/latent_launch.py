"""Sizes of launches of the kernels for attention to hidden states.

All heads of a layer attend to the same rows, so a program takes many heads of one sequence, and a
multiprocessor has room for one program: all kernels share a sequence's tokens alike.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from antiphon.kernels.paged_launch import LEAST_KEYS, MOST_SPLITS

MOST_PARTIAL_BYTES = 64 << 20  # of sums that splits leave for the one that joins them

# Of the Triton kernel (`latent_attention.py`).
MOST_ROWS = 32  # of a program: its sums are rows x width float32, in registers
FEW_ROWS = 16  # the tensor cores' least
WIDE = 1280  # features; of wider states a program's registers hold the sums of FEW_ROWS
LARGEST_CHUNK = 128
SHARED_BYTES = 200_000  # for tiles, of the 227 kB that a multiprocessor of a Hopper GPU gives
FLOAT32_BYTES = 4

# Of the kernel in CUDA C++ (`latent_mma.py`).
WARPS = (16, 8)  # of a program: more of them hide more of what each waits for
FEATURES, ROWS = 16, 8  # of a product of the tensor cores
REGISTERS = 1824  # of a program's lanes of one number: for sums, queries and scores
MOST_STAGES = 4
SHARED_MEMORY = 227 << 10

# Of the kernel by warpgroups (`latent_wgmma.py`).
CHUNK, CHUNK_TOKENS = 64, 64  # features, and tokens that have them in a tile
HALF_BYTES, BARRIER_BYTES = 2, 8
CHUNK_BYTES = CHUNK * CHUNK_TOKENS * HALF_BYTES
WGMMA_ROWS = (8, 16, 24)
GROUPS = 2  # of four warps, that share a tile's chunks


@dataclass(frozen=True)
class Tile:
    """What a program takes: `rows`, each a head of a query, and `tokens` at a time, of which shared
    memory holds `stages`. `features` of a row of sums that a split leaves."""

    rows: int
    tokens: int
    stages: int
    features: int

    def blocks(self, rows: int) -> int:
        """Programs for so many rows of a sequence, in each split."""
        return _parts(rows, self.rows)


@dataclass(frozen=True)
class TritonTile(Tile):
    """`chunk` features are one block of a product."""

    chunk: int

    @classmethod
    def of(cls, rows: int, width: int, itemsize: int) -> "TritonTile":
        """`rows`: heads of all queries of a sequence, at most. `itemsize`: bytes of a feature."""
        block = FEW_ROWS if rows <= FEW_ROWS or width > WIDE else MOST_ROWS
        chunk = min(LARGEST_CHUNK, max(16, 1 << (width - 1).bit_length()))
        features = _parts(width, chunk) * chunk
        tokens = 32 if 2 * 32 * features * itemsize <= SHARED_BYTES else 16
        fits = 2 * tokens * features * itemsize <= SHARED_BYTES
        stages = 2 if fits and itemsize < FLOAT32_BYTES else 1  # float32 is read TWICE
        return cls(block, tokens, stages, features, chunk)


@dataclass(frozen=True)
class MmaTile(Tile):
    warps: int
    itemsize: int

    @classmethod
    def of(cls, rows: int, width: int, itemsize: int) -> "MmaTile":
        """As that of `TritonTile`; `width` is one that the kernel takes."""
        warps = _warps(width)
        assert warps is not None
        block = row_sizes(rows, width)[0]
        room = partial(_stages, block, width, itemsize, warps)
        tokens = 32 if room(32) >= 2 else 16
        return cls(block, tokens, room(tokens), width, warps, itemsize)

    @property
    def shared_bytes(self) -> int:
        return _shared_bytes(
            self.rows, self.features, self.itemsize, self.warps, self.tokens, self.stages
        )


@dataclass(frozen=True)
class WgmmaTile(Tile):
    """Tiles are fetched and given up in chunks of their features: `slots` of them fit."""

    slots: int
    warps: int

    @classmethod
    def of(cls, rows: int, width: int, itemsize: int) -> "WgmmaTile":
        """As that of `MmaTile`, of half precision."""
        assert has_wgmma_tile(width, itemsize)
        block = wgmma_row_sizes(rows)[0]
        slots = _slots(block, width)
        return cls(block, CHUNK_TOKENS, slots * CHUNK // width, width, slots, 4 * (1 + GROUPS))

    @property
    def shared_bytes(self) -> int:
        return _wgmma_shared_bytes(self.rows, self.features, self.slots)


T = TypeVar("T", bound=Tile)


@dataclass(frozen=True)
class LatentLaunch(Generic[T]):
    """Programs for each sequence and block of its rows: so many `splits` of its tokens."""

    splits: int
    tile: T

    @classmethod
    def choose(
        cls, tile: T, sequences: int, rows: int, max_kv_len: int, multiprocessors: int
    ) -> "LatentLaunch[T]":
        """Splits are a power of two. The rounds that all programs take, each as long as its share
        of a sequence, should be few. More splits must gain a tenth, and what they leave is
        bounded. `rows`: see `TritonTile.of`."""
        programs = sequences * tile.blocks(rows)
        best, shortest = 1, float(math.ceil(programs / multiprocessors))
        splits = 2
        while splits <= MOST_SPLITS and splits * LEAST_KEYS < 2 * max_kv_len:
            length = math.ceil(programs * splits / multiprocessors) / splits
            if length < 0.9 * shortest:
                best, shortest = splits, length
            splits *= 2
        most = MOST_PARTIAL_BYTES // (4 * sequences * rows * tile.features)
        while best > 1 and best > most:
            best //= 2
        return cls(best, tile)


def has_mma_tile(width: int, itemsize: int) -> bool:
    """Whether the kernel in CUDA C++ takes states of this width."""
    warps = _warps(width)
    if warps is None or not _most_rows(width, warps):
        return False
    return _stages(ROWS, width, itemsize, warps, 16) >= 2


def row_sizes(least: int, width: int) -> list[int]:
    """Rows of a program, as few sizes as will do: for at least `least` rows, or the most there
    are. Each is a kernel of its own."""
    warps = _warps(width)
    assert warps is not None
    most = _most_rows(width, warps)
    sizes = [size for size in (8, 16, 32, 64) if 3 * size <= 2 * most] + [most]
    return [size for size in sizes if size >= least] or [most]


def has_wgmma_tile(width: int, itemsize: int) -> bool:
    """Whether the kernel by warpgroups takes states of this width."""
    chunks, rest = divmod(width, CHUNK)
    fits = _slots(WGMMA_ROWS[-1], width) >= chunks
    return itemsize == HALF_BYTES and rest == 0 and chunks % GROUPS == 0 and fits


def wgmma_row_sizes(least: int) -> list[int]:
    """As `row_sizes`."""
    return [size for size in WGMMA_ROWS if size >= least] or [WGMMA_ROWS[-1]]


def _most_rows(width: int, warps: int) -> int:
    """Of a program: a lane has six registers for eight rows and sixteen features of its warp, and
    eight for their scores."""
    steps = width // (FEATURES * warps)
    return ROWS * (REGISTERS // warps // (6 * steps + 8))


def _warps(width: int) -> int | None:
    """That share the features of a state evenly."""
    return next((count for count in WARPS if width % (FEATURES * count) == 0), None)


def _stages(rows: int, width: int, itemsize: int, warps: int, tokens: int) -> int:
    """Tiles that fit into shared memory."""
    count = MOST_STAGES
    while count and _shared_bytes(rows, width, itemsize, warps, tokens, count) > SHARED_MEMORY:
        count -= 1
    return count


def _shared_bytes(
    rows: int, width: int, itemsize: int, warps: int, tokens: int, stages: int
) -> int:
    """As `cuda/latent_attention.cu` lays it out: tiles, scores of each warp, weights, a factor of
    each row; barriers."""
    tiles = stages * tokens * (width * itemsize + 16)
    scores = warps * rows * (tokens + 4) * 4
    weights = rows * (tokens + 8) * 2
    return tiles + scores + weights + rows * 4 + 8 + stages * 8 + 8


def _slots(rows: int, width: int) -> int:
    """Chunks of tiles that fit into shared memory, each warpgroup as many."""
    room = SHARED_MEMORY - _wgmma_shared_bytes(rows, width, 0)
    return room // (CHUNK_BYTES + BARRIER_BYTES) // GROUPS * GROUPS


def _wgmma_shared_bytes(rows: int, width: int, slots: int) -> int:
    """As `cuda/latent_wgmma.cu` lays it out: chunks, queries, weights; of each row four maxima, a
    factor, an inverse and a logarithm; barriers."""
    chunks = slots * (CHUNK_BYTES + BARRIER_BYTES)
    sides = rows * (width + CHUNK_TOKENS) * HALF_BYTES
    return chunks + sides + rows * 7 * 4 + 2 * BARRIER_BYTES + 8


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)
