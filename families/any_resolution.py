"""Where the tiles of an image lie, and which of their rows a decoder reads, in models that cut
images of any size into tiles (LLaVA-NeXT, Liu et al. 2024; LLaVA-OneVision, Li et al. 2024)."""

import math
from dataclasses import dataclass
from functools import lru_cache

MOST_REDUCTION = 1.1  # a grid that is larger than allowed by less than this is left as it is
KEPT_SIZES = 1024  # sizes of images whose mosaics are kept


@dataclass(frozen=True)
class AnyResolution:
    """`resolutions`: height and width in pixels of what an image may be resized to. `tile`: pixels
    of a tile's side, `side`: patches of it. `most_tiles`: as many patches as so many tiles have are
    kept of an image, of a larger grid by interpolation; None: all. `alone`: only an image that is
    the only one of its prompt is cut into tiles. `frame_side`: rows that come out of a video's
    frame have it as their side; 0: the model reads no videos."""

    resolutions: tuple[tuple[int, int], ...]
    tile: int
    side: int
    most_tiles: int | None = None
    alone: bool = False
    frame_side: int = 0

    @property
    def most_rows(self) -> int:
        """At least as many as any image becomes."""
        scale = self.side / self.tile
        down = math.ceil(scale * max(height for height, _ in self.resolutions))
        patches = math.ceil(scale**2 * max(math.prod(size) for size in self.resolutions))
        if self.most_tiles is not None:
            kept = math.ceil(MOST_REDUCTION**2 * self.most_tiles * self.side**2)
            patches = min(patches, kept)
        return self.side**2 + patches + down

    def is_video(self, size: tuple[int, int]) -> bool:
        """Whether tiles are frames: nobody asks for the size that those had."""
        return self.frame_side > 0 and size == (0, 0)

    def mosaic(self, tiles: int, size: tuple[int, int]) -> "Mosaic | None":
        """Of an image of `size` (height and width in pixels) that was cut into `tiles`, with the
        whole image as the first one; None where there is no other.

        Raises ValueError for another number of tiles than an image of this size has.
        """
        return None if tiles == 1 else _mosaic(self, tiles, size)

    def rows(self, tiles: int, size: tuple[int, int]) -> int:
        """How many rows come out, those that end lines or a video included. Raises as `mosaic`."""
        if self.is_video(size):
            return tiles * self.frame_side**2 + 1
        mosaic = self.mosaic(tiles, size)
        return self.side**2 + (1 if mosaic is None else mosaic.rows)


@dataclass(frozen=True)
class Mosaic:
    """Tiles side by side, as one grid of patches.

    `tiles`: rows and columns of tiles. `margins`: rows at the top, and at the bottom, that padding
    fills; and columns at both sides. `size`: rows and columns that are kept, after interpolation
    where there are more patches inside the margins.
    """

    tiles: tuple[int, int]
    margins: tuple[int, int]
    size: tuple[int, int]

    @property
    def rows(self) -> int:
        """That come out: each line of patches ends with one of its own."""
        return self.size[0] * (self.size[1] + 1)


@lru_cache(KEPT_SIZES)
def _mosaic(rule: AnyResolution, tiles: int, size: tuple[int, int]) -> Mosaic:
    from transformers.image_processing_utils import select_best_resolution

    if min(size) < 1:
        raise ValueError(f"an image in {tiles} tiles of {size[0]} x {size[1]} pixels")
    height, width = select_best_resolution(size, [list(pair) for pair in rule.resolutions])
    down, across = -(-height // rule.tile), -(-width // rule.tile)
    if tiles != down * across + 1:
        raise ValueError(
            f"an image of {size[0]} x {size[1]} pixels has {down} x {across} tiles and one of the "
            f"whole, not {tiles} in all"
        )
    rows, columns = down * rule.side, across * rule.side
    margins = _margins(size, rows, columns)
    rows, columns = rows - 2 * margins[0], columns - 2 * margins[1]
    if rule.most_tiles is not None:
        ratio = math.sqrt(rows * columns / (rule.most_tiles * rule.side**2))
        if ratio > MOST_REDUCTION:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return Mosaic((down, across), margins, (rows, columns))


def _margins(size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """Of an image of `size` that keeps its proportions within so many rows and columns.

    transformers rounds to seven places too, before it drops what is behind the point.
    """
    height, width = size
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2
