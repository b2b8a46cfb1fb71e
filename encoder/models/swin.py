"""Swin (Liu et al. 2021), the encoder of Donut: attention within windows, which every other layer
shifts, and 2 by 2 tokens merged between stages.

Tokens stay in the order of rows. Each layer gathers those of its windows, all of one size: windows
that reach over the image's edge are filled with zeros, which are attended to, as in training.
Shifted windows wrap around: those at the end hold tokens of opposite edges, which do not see each
other. Such windows follow those that are whole, so that each kind has one bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import ImageEncoder, Layout
from antiphon.encoder.models.projector import Projector
from antiphon.families.image_halves import ImageShape
from antiphon.families.swin_half import Grid, SwinHalf, SwinStage
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LayerNorm
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Part, Shard
from antiphon.layers.stored_linear import PatchLinear
from antiphon.layers.window_bias import Cut, WindowBias
from antiphon.runtime.device import together_to_device

NORM_EPS = 1e-5  # of patches and merged tokens, whatever the eps of the layers' norms
KEPT_GRIDS = 256  # sizes of images whose windows are kept
PADDING = -1  # in place of a token's number


@dataclass(frozen=True)
class Group:
    """Windows of a batch that are cut alike: `tokens` in all, the set called `name`."""

    cut: Cut
    name: str
    tokens: int


@dataclass(frozen=True)
class Windows:
    """The windows of a batch in some layers, one group behind the other. `tokens`
    [windows * size * size] int64: which token is at each of their places, or the number of all
    tokens for none. `places` [tokens] int64: where each token is."""

    groups: tuple[Group, ...]
    tokens: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class StageLayout:
    """`merged` [4 * tokens] int64: which tokens of the stage before each one is made of; None in
    the first stage."""

    plain: Windows
    shifted: Windows
    merged: torch.Tensor | None


@dataclass(frozen=True)
class SwinLayout(Layout):
    stages: tuple[StageLayout, ...]


@lru_cache(KEPT_GRIDS)
def window_tokens(grid: Grid, size: int, is_shifted: bool) -> dict[Cut, np.ndarray]:
    """Numbers of tokens [windows, size * size] int64, PADDING for none, by how windows are cut."""
    rows, columns = grid
    down, across = -(-rows // size), -(-columns // size)
    numbers = np.full((down * size, across * size), PADDING)
    numbers[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    # A single window in either direction is not shifted.
    shift = size // 2 if is_shifted and min(grid) > size else 0
    rolled = np.roll(numbers, (-shift, -shift), (0, 1))
    windows = rolled.reshape(down, size, across, size).swapaxes(1, 2).reshape(down, across, -1)
    if not shift:
        return {(0, 0): windows.reshape(down * across, -1)}
    cut = size - shift
    return {
        (0, 0): windows[:-1, :-1].reshape(-1, size * size),
        (0, cut): windows[:-1, -1],
        (cut, 0): windows[-1, :-1],
        (cut, cut): windows[-1, -1:],
    }


@lru_cache(KEPT_GRIDS)
def merged_tokens(grid: Grid) -> np.ndarray:
    """Numbers of the tokens that become one [merged tokens, 4] int64: above each other first."""
    rows, columns = grid
    numbers = np.full((rows + rows % 2, columns + columns % 2), PADDING)
    numbers[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    parts = [numbers[row::2, column::2] for column in range(2) for row in range(2)]
    return np.stack(parts, -1).reshape(-1, 4)


class Batch:
    """Numbers of the tokens of a batch of tiles in one stage, one tile behind the other."""

    def __init__(self, grids: Sequence[Grid]) -> None:
        self.grids = grids
        self.firsts = np.cumsum([0, *(rows * columns for rows, columns in grids)])

    def moved(self, numbers: np.ndarray, tile: int) -> np.ndarray:
        """From numbers in `tile`; PADDING becomes the number of all tokens."""
        return np.where(numbers == PADDING, self.firsts[-1], numbers + self.firsts[tile])

    def windows(self, size: int, is_shifted: bool) -> dict[Cut, np.ndarray]:
        """As `window_tokens`, of all tiles."""
        by_cut: dict[Cut, list[np.ndarray]] = {}
        for tile, grid in enumerate(self.grids):
            for cut, numbers in window_tokens(grid, size, is_shifted).items():
                by_cut.setdefault(cut, []).append(self.moved(numbers, tile))
        return {cut: np.concatenate(numbers) for cut, numbers in by_cut.items()}

    def places(self, tokens: np.ndarray) -> np.ndarray:
        """[tokens] int64: where each is in `tokens`, which may have padding."""
        places, filled = np.empty(self.firsts[-1], np.int64), tokens < self.firsts[-1]
        places[tokens[filled]] = np.flatnonzero(filled)
        return places

    def merged(self) -> np.ndarray:
        """As `merged_tokens`, of all tiles, flat."""
        tiles = [self.moved(merged_tokens(grid), tile) for tile, grid in enumerate(self.grids)]
        return np.concatenate(tiles).reshape(-1)


class SelfAttention(nn.Module):
    def __init__(self, half: SwinHalf, stage: SwinStage, shard: Shard) -> None:
        super().__init__()
        heads = shard.heads(stage.heads, stage.heads, half.head_dim)
        self.heads, inner = (heads.queries.count, half.head_dim), heads.query_features
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), inner)
        self.qkv = StackedLinear(stage.size, parts, half.qkv_bias)
        self.bias = WindowBias(half.window, heads)
        self.out = Linear(inner, stage.size, summed_over=shard.group)

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        windows: Windows,
    ) -> torch.Tensor:
        """[tokens, hidden] -> what `out` reads [tokens, heads * head_dim]."""
        padded = F.pad(x, (0, 0, 0, 1))[windows.tokens]
        q, k, v = (part.unflatten(-1, self.heads) for part in self.qkv.split(padded))
        sizes = [group.tokens for group in windows.groups]
        parts = zip(windows.groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        attended = [
            attention.run_windows(q, k, v, plans[group.name], self.bias(group.cut))
            for group, q, k, v in parts
        ]
        return torch.cat(attended)[windows.places].flatten(1)


class Merging(nn.Module):
    """2 by 2 tokens of the stage before become one of twice their width. Each rank has all of
    it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = LayerNorm(2 * size, NORM_EPS)
        self.reduction = Linear(2 * size, size, bias=False)

    def forward(self, x: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
        """[tokens, size / 2] -> [merged tokens, size]"""
        four = F.pad(x, (0, 0, 0, 1))[merged].unflatten(0, (-1, 4)).flatten(1)
        reduced: torch.Tensor = self.reduction(self.norm.in_torch(four))
        return reduced


class EncoderLayer(nn.Module):
    def __init__(self, half: SwinHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        self.stage, number = half.place(layer)
        stage = half.stages[self.stage]
        self.is_shifted = number % 2 == 1
        self.merge = Merging(stage.size) if self.stage and not number else None
        self.norm1, self.norm2 = (LayerNorm(stage.size, half.norm_eps) for _ in range(2))
        self.attention = SelfAttention(half, stage, shard)
        self.activation = Activation(half.activation)
        inner = shard.features(stage.ffn_size)
        self.fc1 = Linear(stage.size, inner)
        self.fc2 = Linear(inner, stage.size, summed_over=shard.group)

    def forward(
        self,
        residual: Residual,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: SwinLayout,
    ) -> Residual:
        stage, stream = layout.stages[self.stage], residual.total()
        if self.merge is not None:
            assert stage.merged is not None
            stream = self.merge(stream, stage.merged)
        residual = Residual(stream)
        x = self.norm1.of_sum(residual)  # a tensor: windows are gathered from it
        windows = stage.shifted if self.is_shifted else stage.plain
        x = self.attention(x, attention, plans, windows)
        residual = self.attention.out.add_to(residual, x)

        normed, residual = self.norm2(residual)
        return self.fc2.add_to(residual, self.fc1.activated(normed, self.activation))


class Embeddings(nn.Module):
    def __init__(self, half: SwinHalf) -> None:
        super().__init__()
        size, self.side = half.stages[0].size, half.patch_size
        self.patches = PatchLinear((half.channels, self.side, self.side), size, bias=True)
        self.norm = LayerNorm(size, NORM_EPS)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tiles [tiles, channels, height, width] -> [tokens, hidden]; they are filled with zeros up
        to whole patches."""
        height, width = pixels.shape[2:]
        whole = F.pad(pixels, (0, -width % self.side, 0, -height % self.side))
        patches = F.pixel_unshuffle(whole, self.side).flatten(2).transpose(1, 2)
        return self.norm.in_torch(self.patches(patches.flatten(0, 1)))


class SwinEncoder(ImageEncoder):
    def __init__(self, half: SwinHalf, part: Part) -> None:
        super().__init__()
        self.description = half
        self.embeddings = Embeddings(half)
        self.layers = nn.ModuleList(EncoderLayer(half, n, part.shard) for n in part.layers)
        self.norm = LayerNorm(half.hidden_size, half.norm_eps) if half.final_norm else None
        self.projector = None
        if half.projector is not None:
            self.projector = Projector(half.projector, half.hidden_size)

    @property
    def typical_layers(self) -> int:
        """All: each stage has a width of its own."""
        return len(self.layers)

    def layout(self, images: Sequence[ImageShape]) -> SwinLayout:
        half, stages = self.description, []
        lengths: dict[str, np.ndarray] = {}
        tiles = [grids for image in images for grids in [half.grids(image)] * image.pixels[0]]
        before: Batch | None = None
        for number, grids in enumerate(zip(*tiles, strict=True)):
            batch = Batch(grids)
            plain, shifted = (
                self._windows(batch, number, is_shifted, lengths) for is_shifted in (False, True)
            )
            merged = None if before is None else self._on_device([before.merged()])[0]
            stages.append(StageLayout(plain, shifted, merged))
            before = batch
        return SwinLayout(lengths, tuple(stages))

    def _windows(
        self, batch: Batch, stage: int, is_shifted: bool, lengths: dict[str, np.ndarray]
    ) -> Windows:
        """Adds the sets of these windows to `lengths`."""
        size, groups, numbers = self.description.window, [], []
        for cut, tokens in batch.windows(size, is_shifted).items():
            name = f"windows of stage {stage}{', shifted' * is_shifted}, cut at {cut}"
            lengths[name] = np.full(len(tokens), size * size)
            groups.append(Group(cut, name, tokens.size))
            numbers.append(tokens.reshape(-1))
        tokens = np.concatenate(numbers)
        return Windows(tuple(groups), *self._on_device([tokens, batch.places(tokens)]))

    def _on_device(self, arrays: list[np.ndarray]) -> list[torch.Tensor]:
        return together_to_device(arrays, self.embeddings.norm.weight.device)

    def embed(self, pixels: Sequence[torch.Tensor], layout: SwinLayout) -> torch.Tensor:
        return torch.cat([self.embeddings(tiles) for tiles in pixels])

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: SwinLayout | None = None,
    ) -> torch.Tensor:
        assert layout is not None
        hidden = self.run_layers(x, attention, plans, self.norm, layout)
        if self.projector is None:
            return hidden
        projected: torch.Tensor = self.projector(hidden)
        return projected

    def pool(self, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """The mean of each image's tokens."""
        if self.description.pooling is None:
            return super().pool(hidden, lengths)
        return torch.stack([rows.mean(0) for rows in hidden.split(list(lengths))])
