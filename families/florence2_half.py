"""Description of Florence-2's encoder (Xiao et al. 2024); see `halves`."""

import re
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from antiphon.config.errors import CheckpointError
from antiphon.families.halves import BartHalf
from antiphon.families.image_halves import ImageHalf, ImageShape

Grid = tuple[int, int]  # rows and columns of tokens
TEXT_PARTS = ("embedding.", "layers.", "layer_norm.")


@dataclass(frozen=True)
class DavitStage:
    """A convolution that cuts the stage before (at first: the image) into overlapping patches, then
    blocks of one width. `norm_first`: its norm is before the convolution, not behind it."""

    size: int
    blocks: int
    heads: int  # of attention within windows
    groups: int  # of channels, which attend to each other
    patch: int
    stride: int
    padding: int
    norm_first: bool
    ffn_size: int

    def grid(self, before: Grid) -> Grid:
        """Of what the convolution makes of a grid of `before`."""
        rows, columns = (
            (side + 2 * self.padding - self.patch) // self.stride + 1 for side in before
        )
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class Florence2Half(ImageHalf):
    """DaViT (Ding et al. 2022), whose rows are read by BART's encoder with the text behind them.

    Sizes, heads and layers are those of `text`, the part that attends by the backend that is
    chosen. DaViT is what embeds: its own attention sees windows and channels, never whole images.
    """

    structure: ClassVar[str] = "florence2"
    frontend: ClassVar[str] = "image_text"

    text: BartHalf
    stages: tuple[DavitStage, ...]
    window: int  # rows and columns of a window
    qkv_bias: bool
    tower_activation: str
    most_positions: int  # rows or columns of the last grid

    @property
    def feed_forward_matrices(self) -> int:
        return self.text.feed_forward_matrices

    @property
    def last_norm(self) -> str:
        return self.text.last_norm

    @property
    def most_tensor_ranks(self) -> int:
        shared = [min(stage.heads, stage.groups) for stage in self.stages]
        return min(self.num_heads, *shared)

    @property
    def smallest(self) -> ImageShape:
        side = prod(stage.stride for stage in self.stages)
        return ImageShape((1, self.channels, side, side))

    def grid(self, image: ImageShape) -> Grid:
        """Of the last stage. Raises ValueError as `tokens`."""
        tiles, channels, height, width = image.pixels
        shown = f"an image of {channels} channels and {height} x {width} pixels"
        if channels != self.channels or tiles != 1:
            raise ValueError(f"{shown}: this model takes {self.channels} channels, in one piece")
        grid = (height, width)
        for stage in self.stages:
            grid = stage.grid(grid)
        if not 0 < min(grid) <= max(grid) <= self.most_positions:
            raise ValueError(
                f"{shown}: it becomes {grid[0]} x {grid[1]} tokens; 1 to {self.most_positions} "
                "rows and columns have positions"
            )
        return grid

    def tokens(self, image: ImageShape) -> int:
        """Of the image alone: their mean, then each of them."""
        rows, columns = self.grid(image)
        return 1 + rows * columns

    def rows(self, image: ImageShape) -> int:
        return self.tokens(image)

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        if path.startswith(TEXT_PARTS):
            return self.text.checkpoint_names(path)
        stored = re.sub(r"\.(spatial|channel)\.", r".\1_block.", path)
        stored = stored.replace("spatial_block.attention.", "spatial_block.window_attn.")
        stored = stored.replace("channel_block.attention.", "channel_block.channel_attn.")
        stored = re.sub(r"\.(fc[12])\.", r".ffn.\1.", stored)
        return super().checkpoint_names(stored)

    def check(self, model: str) -> None:
        super().check(model)
        self.text.check(model)
        for number, stage in enumerate(self.stages):
            if stage.size % stage.heads or stage.size % stage.groups:
                raise CheckpointError(
                    f"{model}: {stage.size} features of stage {number} are no multiple of its "
                    f"{stage.heads} heads and {stage.groups} groups"
                )
