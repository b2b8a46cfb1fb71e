"""DaViT (Ding et al. 2022), the vision tower of Florence-2, and the projection behind it.

Blocks attend within windows, then between channels; a depthwise convolution before each sublayer
tells places apart. Images of one size are computed together: [images * rows * columns, features],
line by line. Windows that reach over the image's edge are filled with zeros, which are attended to,
as in training.

Attention is torch's: every window has one length, and channels attend to channels over all tokens
of an image, a head size that no other backend has.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.families.florence2_half import DavitStage, Florence2Half
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear
from antiphon.layers.norms import LayerNorm
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Shard
from antiphon.layers.stored_linear import PackedLinear


@dataclass(frozen=True)
class Grids:
    """`images` of `rows` by `columns` tokens."""

    images: int
    rows: int
    columns: int

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, features] -> [images, rows, columns, features]"""
        return x.view(self.images, self.rows, self.columns, -1)


class Patches(nn.Module):
    """Overlapping patches of what is before, by a convolution, with a norm on one side of it."""

    def __init__(self, before: int, stage: DavitStage) -> None:
        super().__init__()
        self.norm_first = stage.norm_first
        self.conv = nn.Conv2d(before, stage.size, stage.patch, stage.stride, stage.padding)
        self.norm = LayerNorm(before if stage.norm_first else stage.size)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Grids]:
        """[images, rows, columns, features] -> tokens [tokens, size]"""
        if self.norm_first:
            x = self.norm.in_torch(x)
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        grids = Grids(*x.shape[:3])
        tokens = x.reshape(-1, x.shape[-1])
        return tokens if self.norm_first else self.norm.in_torch(tokens), grids


class WindowAttention(nn.Module):
    def __init__(self, half: Florence2Half, stage: DavitStage, shard: Shard) -> None:
        super().__init__()
        heads = shard.heads(stage.heads, stage.heads, stage.size // stage.heads)
        self.window, self.heads = half.window, (heads.queries.count, heads.dim)
        inner = heads.query_features
        self.qkv = PackedLinear(stage.size, dict.fromkeys("qkv", inner), half.qkv_bias)
        self.proj = Linear(inner, stage.size, summed_over=shard.group)

    def forward(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:
        """[tokens, size] -> what `proj` reads [tokens, heads * head_dim]."""
        side = self.window
        padding = (0, 0, 0, -grids.columns % side, 0, -grids.rows % side)
        padded = F.pad(grids.spread(x), padding)
        down, across = padded.shape[1] // side, padded.shape[2] // side
        cut = padded.unflatten(2, (across, side)).unflatten(1, (down, side)).transpose(2, 3)
        windows = cut.reshape(-1, x.shape[-1])
        q, k, v = (
            part.reshape(-1, side * side, *self.heads).transpose(1, 2)
            for part in self.qkv.split(windows)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        whole = attended.reshape(grids.images, down, across, side, side, -1).transpose(2, 3)
        whole = whole.reshape(grids.images, down * side, across * side, -1)
        return whole[:, : grids.rows, : grids.columns].reshape(len(x), -1)


class ChannelAttention(nn.Module):
    """Channels of a group attend to each other; their features are an image's tokens."""

    def __init__(self, half: Florence2Half, stage: DavitStage, shard: Shard) -> None:
        super().__init__()
        groups = shard.heads(stage.groups, stage.groups, stage.size // stage.groups)
        self.groups, inner = (groups.queries.count, groups.dim), groups.query_features
        self.qkv = PackedLinear(stage.size, dict.fromkeys("qkv", inner), half.qkv_bias)
        self.proj = Linear(inner, stage.size, summed_over=shard.group)

    def forward(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:
        """As `WindowAttention`."""
        tokens = grids.rows * grids.columns
        q, k, v = (
            part.reshape(grids.images, tokens, *self.groups).permute(0, 2, 3, 1)
            for part in self.qkv.split(x)
        )
        attended = F.scaled_dot_product_attention(q, k, v, scale=tokens**-0.5)
        return attended.permute(0, 3, 1, 2).reshape(len(x), -1)


class Sublayers(nn.Module):
    """Attention and a feed-forward layer, each behind a convolution of every feature over the
    tokens around."""

    def __init__(
        self,
        attention: WindowAttention | ChannelAttention,
        half: Florence2Half,
        stage: DavitStage,
        shard: Shard,
    ) -> None:
        super().__init__()
        size, inner = stage.size, shard.features(stage.ffn_size)
        self.attention = attention
        self.conv1, self.conv2 = (
            nn.Conv2d(size, size, 3, padding=1, groups=size) for _ in range(2)
        )
        self.norm1, self.norm2 = LayerNorm(size), LayerNorm(size)
        self.activation = Activation(half.tower_activation)
        self.fc1 = Linear(size, inner)
        self.fc2 = Linear(inner, size, summed_over=shard.group)

    def forward(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:
        """[tokens, size] -> the same"""
        residual = Residual(_placed(x, self.conv1, grids))
        normed = self.norm1.of_sum(residual)  # a tensor: windows are cut from it
        residual = self.attention.proj.add_to(residual, self.attention(normed, grids))

        residual = Residual(_placed(residual.total(), self.conv2, grids))
        inner, residual = self.norm2(residual)
        return self.fc2.add_to(residual, self.fc1.activated(inner, self.activation)).total()


def _placed(x: torch.Tensor, conv: nn.Conv2d, grids: Grids) -> torch.Tensor:
    """[tokens, size] and what `conv` makes of them"""
    made: torch.Tensor = conv(grids.spread(x).permute(0, 3, 1, 2))
    return x + made.permute(0, 2, 3, 1).reshape(len(x), -1)


class Block(nn.Module):
    def __init__(self, half: Florence2Half, stage: DavitStage, shard: Shard) -> None:
        super().__init__()
        self.spatial = Sublayers(WindowAttention(half, stage, shard), half, stage, shard)
        self.channel = Sublayers(ChannelAttention(half, stage, shard), half, stage, shard)

    def forward(self, x: torch.Tensor, grids: Grids) -> torch.Tensor:
        """[tokens, size] -> the same"""
        mixed: torch.Tensor = self.channel(self.spatial(x, grids), grids)
        return mixed


class Davit(nn.Module):
    def __init__(self, half: Florence2Half, shard: Shard) -> None:
        super().__init__()
        widths = [half.channels, *(stage.size for stage in half.stages)]
        self.convs = nn.ModuleList(map(Patches, widths, half.stages))
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(half, stage, shard) for _ in range(stage.blocks))
            for stage in half.stages
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[images, channels, height, width] -> [images, rows, columns, size of the last stage]"""
        spread = pixels.permute(0, 2, 3, 1)
        for patches, blocks in zip(self.convs, self.blocks, strict=True):
            assert isinstance(blocks, nn.ModuleList)
            x, grids = patches(spread)
            for block in blocks:
                x = block(x, grids)
            spread = grids.spread(x)
        return spread


class RowsOfImages(nn.Module):
    """Positions by row and column, the mean of all tokens before them, and a projection to the text
    encoder's width. Each rank has all of it."""

    def __init__(self, half: Florence2Half) -> None:
        super().__init__()
        size = half.stages[-1].size
        self.row_embeddings = nn.Embedding(half.most_positions, size // 2)
        self.column_embeddings = nn.Embedding(half.most_positions, size - size // 2)
        self.projection = Linear(size, half.hidden_size, bias=False)
        self.norm = LayerNorm(half.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[images, rows, columns, size] -> [images, 1 + rows * columns, hidden]"""
        _, rows, columns, _ = x.shape
        row = self.row_embeddings.weight[:rows, None].expand(-1, columns, -1)
        column = self.column_embeddings.weight[None, :columns].expand(rows, -1, -1)
        placed = (x + torch.cat([column, row], -1)).flatten(1, 2)
        # The position of the first frame: sines of 0 and cosines of 0, in turn.
        placed = placed + torch.arange(x.shape[-1], device=x.device).remainder(2).to(x.dtype)
        tokens = torch.cat([placed.mean(1, keepdim=True), placed], 1)
        projected: torch.Tensor = self.projection(tokens.flatten(0, 1))
        return self.norm.in_torch(projected).unflatten(0, (len(x), -1))
