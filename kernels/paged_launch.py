"""How a launch of paged attention is cut up: the number of splits, and the tile of a program.

All programs of a launch take about equally long, and a multiprocessor holds a fixed
number of them. Those that find no room run when the first ones end, and a round of one
program takes as long as a full round: full rounds count. The numbers were measured on
an H200.
"""

import math
from dataclasses import dataclass

MOST_SPLITS = 16
LEAST_KEYS = 128  # of a split: with fewer, joining the splits costs more than it gains


@dataclass(frozen=True)
class Tile:
    """What a program reads at a time, and its resources."""

    keys: int
    warps: int
    stages: int


# Programs that a multiprocessor holds at once, limited by their registers: head size 64, half
# precision.
ROOM = {
    Tile(keys=32, warps=1, stages=3): 12,
    Tile(keys=32, warps=1, stages=2): 8,
    Tile(keys=32, warps=2, stages=2): 10,
}
# The same for the float8 kernel with two warps. With one warp it is 28, better not filled.
DECODE_ROOM = 14
DECODE_TOGETHER = 26


@dataclass(frozen=True)
class PagedLaunch:
    """The sizes of one launch.

    `tile` is the general kernel's. `decode_tile` is the float8 kernel's, of which a
    program takes `sequences`, one by one.
    """

    splits: int
    tile: Tile
    decode_tile: Tile = Tile(keys=16, warps=2, stages=1)
    sequences: int = 1

    @classmethod
    def choose(
        cls,
        kind: str,
        sequences: int,
        q_blocks: int,
        heads: int,
        head_dim: int,
        max_kv_len: int,
        multiprocessors: int,
        float8: bool = False,
    ) -> "PagedLaunch":
        """Enough splits for some programs on every multiprocessor, but no more than it can hold.

        `kind` is causal or cross; `q_blocks` are a sequence's blocks of queries. The
        right tile makes the kernel a tenth faster.
        """
        programs = sequences * q_blocks * heads
        wanted = max(1, (10 if float8 else 5) * multiprocessors // programs)
        # Powers of two: few kernels to compile. A program knows how many splits its keys are worth.
        useful = _power_of_two(math.ceil(max_kv_len / LEAST_KEYS))
        splits = min(1 << (wanted.bit_length() - 1), useful, MOST_SPLITS)
        load = programs * splits / multiprocessors  # programs of a multiprocessor
        tile = _tile(kind, load, head_dim, short=max_kv_len <= splits * LEAST_KEYS)
        return cls(splits, tile, *_decodes(load / q_blocks, head_dim))


def _tile(kind: str, programs: float, head_dim: int, short: bool) -> Tile:
    """For `programs` per multiprocessor; `short`: splits of no more keys than a tile or two."""
    if kind == "causal":  # a sequence may grow long, but most steps see a few dozen keys
        return (
            Tile(keys=32, warps=2, stages=2) if programs < 15 else Tile(keys=32, warps=1, stages=3)
        )
    if short or head_dim > 128:
        return Tile(keys=128 if head_dim <= 64 else 64, warps=4, stages=2)
    if head_dim > 64:
        return Tile(keys=32, warps=1, stages=3)
    if programs < 7:
        return Tile(keys=64, warps=2, stages=3)
    # The tile whose last round is fullest: the fastest, or within 3 % of it, for 7.75 to 58
    # programs.
    return max(ROOM, key=lambda tile: programs / (ROOM[tile] * math.ceil(programs / ROOM[tile])))


def _decodes(programs: float, head_dim: int) -> tuple[Tile, int]:
    """The float8 kernel's tile, and the sequences of one program: enough for one round."""
    if programs < DECODE_ROOM:
        return Tile(keys=16, warps=2 if head_dim <= 96 else 4, stages=1), 1
    sequences = math.ceil(programs / DECODE_TOGETHER) if head_dim <= 64 else 1
    return Tile(keys=8, warps=1, stages=1), sequences


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
