"""How a launch of the kernels in `paged_attention.py` is cut up: into how many splits, and what a program takes at a time.

Programs of a launch take about equally long, and a multiprocessor has room for a fixed number of them. What finds no room runs
when the first ones end, and a round of one program takes as long as a full one: what counts is that rounds are full. The numbers
were measured on an H200.
"""

import math
from dataclasses import dataclass

from antiphon.config.arithmetic import ceil_div

MOST_SPLITS = 16
LEAST_KEYS = 128  # of a split: below, joining costs more than it gains


@dataclass(frozen=True)
class Tile:
    """What a program takes at a time, and with what."""

    keys: int
    warps: int
    stages: int


# Programs that a multiprocessor has room for at once, by their registers: of a head size of 64, in half precision.
ROOM = {
    Tile(keys=32, warps=1, stages=3): 12,
    Tile(keys=32, warps=1, stages=2): 8,
    Tile(keys=32, warps=2, stages=2): 10,
}
DECODE_ROOM = 14  # the same of the float8 kernel with two warps; with one it is 28, and better not filled to the brim
DECODE_TOGETHER = 26


@dataclass(frozen=True)
class PagedLaunch:
    """`tile` is the general kernel's, `decode_tile` the float8 kernel's; a program of that takes `sequences`, one by one."""

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
        """`kind` is causal or cross. For `q_blocks` of each sequence x heads: enough splits for some programs on each multiprocessor, but no more than there
        is room for at once. The right tile is worth a tenth."""
        programs = sequences * q_blocks * heads
        wanted = max(1, (10 if float8 else 5) * multiprocessors // programs)
        # Powers of two make few kernels to compile; a program knows how many splits its keys are worth.
        useful = _power_of_two(ceil_div(max_kv_len, LEAST_KEYS))
        splits = min(1 << (wanted.bit_length() - 1), useful, MOST_SPLITS)
        each = programs * splits / multiprocessors
        tile = _tile(kind, each, head_dim, short=max_kv_len <= splits * LEAST_KEYS)
        return cls(splits, tile, *_decodes(each / q_blocks, head_dim))


def _tile(kind: str, programs: float, head_dim: int, short: bool) -> Tile:
    """For so many `programs` of each multiprocessor; `short`: of a tile's keys or two."""
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
    # Of those in ROOM, the one whose last round is fullest: the fastest, or within 3 % of it, for 7.75 to 58 programs.
    return max(ROOM, key=lambda tile: programs / (ROOM[tile] * math.ceil(programs / ROOM[tile])))


def _decodes(programs: float, head_dim: int) -> tuple[Tile, int]:
    """The float8 kernel's tile, and how many sequences a program of it takes, so that one round is enough."""
    if programs < DECODE_ROOM:
        return Tile(keys=16, warps=2 if head_dim <= 96 else 4, stages=1), 1
    return Tile(keys=8, warps=1, stages=1), math.ceil(
        programs / DECODE_TOGETHER
    ) if head_dim <= 64 else 1


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
