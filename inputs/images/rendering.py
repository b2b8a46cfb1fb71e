"""Pictures to an encoder's pixels on any device: resized, cut into tiles or patches, normed.

What comes out differs from what transformers' processors make with Pillow by roundings of float32
alone.
"""

from dataclasses import astuple, dataclass
from typing import Self

import numpy as np
import torch
from torch.nn import functional as F

from antiphon.inputs.images.resizing import FILTERS, Filter, Size, resize
from antiphon.runtime.device import together_to_device

VIEW_NUMBERS = 9
CHANNELS = 3


@dataclass(frozen=True)
class View:
    """A picture resized to `size` lies on a black canvas of `canvas` pixels with its corner at
    `corner`, which may be outside; the canvas is cut into tiles of `tile` pixels, line by line.
    `rows_first`: the height is changed before the width."""

    size: Size
    canvas: Size
    corner: Size
    tile: Size
    rows_first: bool = False

    @property
    def tiles(self) -> int:
        return (self.canvas[0] // self.tile[0]) * (self.canvas[1] // self.tile[1])


@dataclass(frozen=True)
class Patches:
    """A tile is cut into patches of `side` by `side` pixels, each of which stands for `frames`
    frames; `merge` by `merge` of them follow each other, as Qwen's encoders merge them."""

    side: int
    frames: int
    merge: int


@dataclass(frozen=True)
class Rendering:
    """Tiles of all `views`, one behind the other. `factor`: of gray levels; then `mean` is taken
    away from each channel, and it is divided by `std`. `patches`: of the one tile; None: tiles stay
    whole."""

    views: tuple[View, ...]
    filter: Filter
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patches: Patches | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of what it makes, as `ImageShape.pixels` has it."""
        height, width = self.views[0].tile
        if self.patches is None:
            return sum(view.tiles for view in self.views), CHANNELS, height, width
        side = self.patches.side
        features = CHANNELS * self.patches.frames * side**2
        return 1, height // side, width // side, features

    def numbers(self) -> np.ndarray:
        """float32 [n], of which `of_numbers` makes an equal one, but for roundings to float32."""
        sizes: list[int] = []
        for view in self.views:
            sizes += [*view.size, *view.canvas, *view.corner, *view.tile, view.rows_first]
        cut = (0, 0, 0) if self.patches is None else astuple(self.patches)
        kind = FILTERS.index(self.filter)
        normed = (self.factor, *self.mean, *self.std)
        return np.array([len(self.views), kind, *cut, *normed, *sizes], np.float32)

    @classmethod
    def of_numbers(cls, numbers: np.ndarray) -> Self:
        """Of what `numbers` gives, and whatever stands behind it."""
        begin = 6 + 2 * CHANNELS
        count, kind, side, frames, merge, factor, *normed = numbers[:begin].tolist()
        patches = Patches(int(side), int(frames), int(merge)) if side else None
        sizes = numbers[begin : begin + int(count) * VIEW_NUMBERS].astype(int)
        views = tuple(
            View((a, b), (c, d), (e, f), (g, h), bool(first))
            for a, b, c, d, e, f, g, h, first in sizes.reshape(-1, VIEW_NUMBERS).tolist()
        )
        mean, std = tuple(normed[:CHANNELS]), tuple(normed[CHANNELS:])
        return cls(views, FILTERS[int(kind)], factor, mean, std, patches)

    def values(self, picture: torch.Tensor) -> torch.Tensor:
        """uint8 [height, width, channels] -> float32 of `shape`."""
        image = picture.permute(2, 0, 1).float()
        cut = torch.cat([self._cut(image, view) for view in self.views])
        normed = [
            np.array(statistic, np.float32).reshape(-1, 1, 1) for statistic in (self.mean, self.std)
        ]
        mean, std = together_to_device(normed, cut.device)
        tiles = (cut * self.factor - mean) / std
        return tiles if self.patches is None else self._in_patches(tiles, self.patches)

    def levels(self, values: np.ndarray) -> np.ndarray:
        """Differences of values, of `shape`, in gray levels."""
        _, _, height, features = values.shape
        size = height * features if self.patches is None else features // CHANNELS
        return values.reshape(-1, CHANNELS, size) * (np.array(self.std)[:, None] / self.factor)

    def _cut(self, image: torch.Tensor, view: View) -> torch.Tensor:
        """[channels, height, width] -> [tiles, channels, height, width]."""
        resized = resize(image, view.size, self.filter, view.rows_first)
        top, left = view.corner
        bottom, right = (
            canvas - corner - size
            for canvas, corner, size in zip(view.canvas, view.corner, view.size, strict=True)
        )
        if any((top, left, bottom, right)):
            resized = F.pad(resized, (left, right, top, bottom))
        height, width = view.tile
        cut = resized.unflatten(2, (-1, width)).unflatten(1, (-1, height))
        return cut.permute(1, 3, 0, 2, 4).flatten(0, 1)

    def _in_patches(self, tiles: torch.Tensor, patches: Patches) -> torch.Tensor:
        """[1, channels, height, width] -> [1, rows, columns, features]."""
        side, merge = patches.side, patches.merge
        cut = tiles[0].unflatten(2, (-1, merge, side)).unflatten(1, (-1, merge, side))
        ordered = cut.permute(1, 4, 2, 5, 0, 3, 6)  # groups, those within one, channels, pixels
        frames = ordered.unsqueeze(5).expand(-1, -1, -1, -1, -1, patches.frames, -1, -1)
        return frames.reshape(self.shape)
