"""Vision transformers (Dosovitskiy et al. 2021): SigLIP, CLIP, ViT, DeiT, BEiT and InternViT,
which differ in constants (`VitHalf`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import ImageEncoder, Layout
from antiphon.encoder.models.length_sets import FULL
from antiphon.encoder.models.mosaic import Mosaics
from antiphon.encoder.models.pooling import build_pooler
from antiphon.encoder.models.projector import Projector
from antiphon.families.image_halves import ImageShape, VitHalf
from antiphon.layers.activations import Activation
from antiphon.layers.heads_norm import HeadsNorm
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, LinearInput, Norm, RMSNorm
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Part, Shard
from antiphon.layers.stored_linear import PackedLinear, PatchLinear, ScaledLinear
from antiphon.layers.window_bias import ImageBias

HEADS_NORM_EPS = 1e-6  # whatever the eps of other norms


@dataclass(frozen=True)
class Grids:
    """Tiles next to each other that have equally many patches: `tiles` of `rows` by `columns`."""

    tiles: int
    rows: int
    columns: int


@dataclass(frozen=True)
class VitLayout(Layout):
    grids: tuple[Grids, ...]


def make_norm(half: VitHalf) -> Norm:
    if half.norm == "rms":
        return RMSNorm(half.hidden_size, half.norm_eps)
    return LayerNorm(half.hidden_size, half.norm_eps)


class Embeddings(nn.Module):
    """Patches and class tokens, each with the vector of its position.

    `class_token`, `distillation_token` [hidden]; `positions` [class tokens + patches of the trained
    grid, hidden].
    """

    def __init__(self, half: VitHalf) -> None:
        super().__init__()
        size, side = half.hidden_size, half.patch_size
        self.description = half
        self.patches = PatchLinear((half.channels, side, side), size, half.patch_bias)
        names = ("class_token", "distillation_token")
        for name in names[: half.class_tokens]:
            self.register_parameter(name, nn.Parameter(torch.zeros(size), requires_grad=False))
        self.class_names = names[: half.class_tokens]
        rows, columns = half.trained_grid
        self.positions = None
        if half.positions:
            table = torch.empty(half.class_tokens + rows * columns, size)
            self.positions = nn.Parameter(table, requires_grad=False)
        self.norm = LayerNorm(size, half.norm_eps) if half.embedding_norm else None
        self._resized: dict[tuple[int, int], torch.Tensor] = {}

    def forward(self, pixels: torch.Tensor, grids: Grids) -> torch.Tensor:
        """Tiles [tiles, channels, height, width] -> [tokens, hidden], class tokens first."""
        side, rows, columns = self.description.patch_size, grids.rows, grids.columns
        whole = pixels[..., : rows * side, : columns * side]  # what is over has no patch
        cut = whole.unflatten(3, (columns, side)).unflatten(2, (rows, side))
        patches = cut.permute(0, 2, 4, 1, 3, 5).reshape(grids.tiles * rows * columns, -1)
        x = self.patches(patches).unflatten(0, (grids.tiles, -1))
        if self.class_names:
            tokens = torch.stack([getattr(self, name) for name in self.class_names])
            x = torch.cat([tokens.expand(grids.tiles, -1, -1), x], 1)
        if self.positions is not None:
            x = x + self._positions(rows, columns)
        x = x.flatten(0, 1)
        return x if self.norm is None else self.norm.in_torch(x)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """[tokens of a tile, hidden]; interpolated where the grid is not the trained one."""
        assert self.positions is not None
        trained, size = self.description.trained_grid, (rows, columns)
        if size == trained:
            return self.positions
        if size not in self._resized:
            tokens = self.description.class_tokens
            grid = self.positions[tokens:].unflatten(0, trained).permute(2, 0, 1)[None]
            resized = F.interpolate(grid.float(), size=size, mode="bicubic", align_corners=False)
            patches = resized[0].permute(1, 2, 0).flatten(0, 1).to(self.positions.dtype)
            self._resized[size] = torch.cat([self.positions[:tokens], patches])
        return self._resized[size]


class SelfAttention(nn.Module):
    def __init__(self, half: VitHalf, shard: Shard) -> None:
        super().__init__()
        size, heads = half.hidden_size, shard.heads_of(half)
        self.heads, inner = (heads.queries.count, half.head_dim), heads.query_features
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), inner)
        unbiased = () if half.key_bias else ("k_proj",)
        projections = PackedLinear if half.packed_qkv else StackedLinear
        self.qkv = projections(size, parts, half.qkv_bias, unbiased)
        self.bias = ImageBias(*half.trained_grid, heads) if half.layer_bias else None
        out = ScaledLinear if half.layer_scale else Linear
        self.out = out(inner, size, summed_over=shard.group)
        self.q_norm = self.k_norm = None
        if half.qk_norm:
            self.q_norm = HeadsNorm(inner, HEADS_NORM_EPS, shard.group)
            self.k_norm = HeadsNorm(inner, HEADS_NORM_EPS, shard.group)

    def forward(
        self,
        x: LinearInput,
        attention: FullAttention[M],
        metadata: M,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """[tokens, hidden] -> what `out` reads [tokens, heads * head_dim]. `bias` [1, heads,
        tokens of a tile, the same]: of all layers."""
        q, k, v = self.qkv.split(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, self.heads) for part in (q, k, v))
        if self.bias is not None:
            bias = self.bias() if bias is None else bias + self.bias()
        if bias is None:
            return attention.run(q, k, v, metadata).flatten(1)
        return attention.run_windows(q, k, v, metadata, bias).flatten(1)


class EncoderLayer(nn.Module):
    lengths = FULL  # name of the set of lengths that it attends within

    def __init__(self, half: VitHalf, shard: Shard) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm(half), make_norm(half)
        self.attention = SelfAttention(half, shard)
        self.activation = Activation(half.activation)
        inner = shard.features(half.ffn_size)
        self.fc1 = Linear(half.hidden_size, inner)
        down = ScaledLinear if half.layer_scale else Linear
        self.fc2 = down(inner, half.hidden_size, summed_over=shard.group)

    def forward(
        self,
        residual: Residual,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        bias: torch.Tensor | None,
    ) -> Residual:
        x, residual = self.norm1(residual)
        x = self.attention(x, attention, plans[self.lengths], bias)
        residual = self.attention.out.add_to(residual, x)

        x, residual = self.norm2(residual)
        x = self.fc1.activated(x, self.activation)
        return self.fc2.add_to(residual, x)


class VisionTransformer(ImageEncoder):
    def __init__(self, half: VitHalf, part: Part) -> None:
        super().__init__()
        self.description = half
        self.embeddings = Embeddings(half) if part.is_first else None
        self.bias = None
        if half.shared_bias:
            self.bias = ImageBias(*half.trained_grid, part.shard.heads_of(half))
        self.layers = nn.ModuleList(EncoderLayer(half, part.shard) for _ in part.layers)
        self.norm = make_norm(half) if half.final_norm and part.is_last else None
        self.projector = self.pooler = self.mosaics = None
        if part.is_last:
            self.pooler = build_pooler(half)
            if half.projector is not None:
                self.projector = Projector(half.projector, half.features)
            if half.tiles is not None:
                self.mosaics = Mosaics(half.tiles, half.output_size)
        self.is_last = part.is_last

    @property
    def typical_layers(self) -> int:
        return len(self.layers) if self.description.feature_layers else super().typical_layers

    def layout(self, images: Sequence[ImageShape]) -> VitLayout:
        lengths, grids = [], []
        for sizes, alike in groupby(images, lambda image: image.pixels[1:]):
            tiles = sum(image.pixels[0] for image in alike)
            shape = ImageShape((tiles, *sizes))
            lengths.append(np.full(tiles, self.description.tile_tokens(shape)))
            grids.append(Grids(tiles, *self.description.grid(shape)))
        return VitLayout({FULL: np.concatenate(lengths)}, tuple(grids))

    def embed(self, pixels: Sequence[torch.Tensor], layout: VitLayout) -> torch.Tensor:
        assert self.embeddings is not None
        alike = zip(pixels, layout.grids, strict=True)
        return torch.cat([self.embeddings(tiles, grids) for tiles, grids in alike])

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: VitLayout | None = None,
    ) -> torch.Tensor:
        residual, wanted = Residual(x), self.description.feature_layers
        states: dict[int, torch.Tensor] = {}
        bias = None if self.bias is None else self.bias()
        for number, layer in enumerate(self.layers):
            if number in wanted:
                states[number] = residual.total()
            residual = layer(residual, attention, plans, bias)
        if not self.is_last:
            return residual.total()
        hidden = residual.total() if self.norm is None else self.norm.of_sum(residual)
        if wanted:
            states[len(self.layers)] = hidden
            hidden = torch.cat([states[number] for number in wanted], -1)
        if self.projector is None and self.description.class_rows:
            return hidden
        assert layout is not None
        return torch.cat([self._rows(*group) for group in self._tiles(hidden, layout)])

    def assembled(self, rows: torch.Tensor, images: Sequence[ImageShape]) -> torch.Tensor:
        if self.mosaics is None:
            return rows
        assembled: torch.Tensor = self.mosaics(rows, images)
        return assembled

    def _tiles(self, hidden: torch.Tensor, layout: VitLayout) -> list[tuple[torch.Tensor, Grids]]:
        """Tiles of equal sizes [tiles, tokens, hidden], with their grids."""
        classes = self.description.class_tokens
        sizes = [grids.tiles * (grids.rows * grids.columns + classes) for grids in layout.grids]
        groups = zip(hidden.split(sizes), layout.grids, strict=True)
        return [(group.unflatten(0, (grids.tiles, -1)), grids) for group, grids in groups]

    def _rows(self, tiles: torch.Tensor, grids: Grids) -> torch.Tensor:
        """[tiles, tokens, hidden] -> the rows that come out."""
        if self.projector is not None and self.description.class_rows:
            projected: torch.Tensor = self.projector(tiles.flatten(0, 1))
            return projected
        patches = tiles[:, self.description.class_tokens :]
        if self.projector is None:
            return patches.flatten(0, 1)
        return self.projector.of_grids(patches.unflatten(1, (grids.rows, grids.columns)))

    def pool(self, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        if self.pooler is None:
            return super().pool(hidden, lengths)
        pooled: torch.Tensor = self.pooler(hidden, lengths)
        return pooled
