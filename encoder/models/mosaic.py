"""An image's tiles put together for a decoder (`AnyResolution`)."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.families.any_resolution import AnyResolution, Mosaic
from antiphon.families.image_halves import ImageShape


class Mosaics(nn.Module):
    """The whole image's patches first, then those of its tiles as one grid, line by line, without
    what padding fills. `newline` [features] ends each line, and an image that is one tile; and a
    video, of whose frames only the patches come out, shrunk to half their rows and columns."""

    def __init__(self, rule: AnyResolution, features: int) -> None:
        super().__init__()
        self.rule = rule
        self.newline = nn.Parameter(torch.empty(features), requires_grad=False)

    def forward(self, patches: torch.Tensor, images: Sequence[ImageShape]) -> torch.Tensor:
        """Projected patches of all tiles [patches, features], tile by tile -> [rows, features]."""
        tiles = patches.unflatten(0, (-1, self.rule.side**2))
        counts = [image.pixels[0] for image in images]
        rows: list[torch.Tensor] = []
        for own, image in zip(tiles.split(counts), images, strict=True):
            if self.rule.is_video(image.size):
                rows += [self._shrunk(own), self.newline[None]]
                continue
            rows.append(own[0])
            mosaic = self.rule.mosaic(len(own), image.size)
            rows.append(self.newline[None] if mosaic is None else self._lines(own[1:], mosaic))
        return torch.cat(rows)

    def _shrunk(self, frames: torch.Tensor) -> torch.Tensor:
        """[frames, patches, features] -> [rows that come out, features]."""
        side, size = self.rule.side, (self.rule.frame_side, self.rule.frame_side)
        planes = frames.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return F.interpolate(planes, size, mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)

    def _lines(self, tiles: torch.Tensor, mosaic: Mosaic) -> torch.Tensor:
        """[tiles, patches, features] -> [rows that come out, features]."""
        side, (down, across) = self.rule.side, mosaic.tiles
        apart = tiles.view(down, across, side, side, -1)
        grid = apart.transpose(1, 2).reshape(down * side, across * side, -1)
        top, left = mosaic.margins
        grid = grid[top : down * side - top, left : across * side - left]
        if grid.shape[:2] != mosaic.size:
            planes = grid.permute(2, 0, 1)[None]
            grid = F.interpolate(planes, mosaic.size, mode="bilinear")[0].permute(1, 2, 0)
        ends = self.newline.expand(len(grid), 1, -1)
        return torch.cat([grid, ends], 1).flatten(0, 1)
