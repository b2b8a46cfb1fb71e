"""The vision encoder of Llama 3.2 Vision (Grattafiori et al. 2024, section 7).

An image is always `most_tiles` tiles, of which those behind its own are empty, and each tile has
padding behind its patches. As in the published models, empty tiles and padding are seen by the
patches; they themselves see the patches alone. No attention backend takes such a mask, so each head
has a feature more: 1 in the queries and far below 0 in the keys of what is empty, and 0 elsewhere.
Their product takes pairs of empty tokens out of the softmax, exactly, and changes no other score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import ImageEncoder, Layout
from antiphon.encoder.models.length_sets import FULL
from antiphon.encoder.models.projector import Projector
from antiphon.families.image_halves import ImageShape
from antiphon.families.mllama_half import MARK_FEATURES, MllamaVisionHalf
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, LinearInput
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Part, Shard
from antiphon.layers.stored_linear import GatedLinear, PatchLinear
from antiphon.runtime.device import together_to_device

# A power of two, which all formats hold; times the scale of any head it is far beyond any score.
MARK = 2.0**14


@dataclass(frozen=True)
class MllamaLayout(Layout):
    """All on the device. `places` [tiles] int64: of the tiles that images have, among all.
    `arrangements` [images] int64. `empty` [tokens] bool: of empty tiles, or padding of others."""

    places: torch.Tensor
    arrangements: torch.Tensor
    empty: torch.Tensor


class TileVectors(nn.Module):
    """A vector for each tile of each arrangement, behind a gate. Number 0 is of no image."""

    def __init__(self, half: MllamaVisionHalf, tokens: int = 1) -> None:
        super().__init__()
        self.shape = (half.most_tiles, tokens, half.hidden_size)
        table = torch.empty(len(half.arrangements) + 1, torch.Size(self.shape).numel())
        self.table = nn.Parameter(table, requires_grad=False)
        self.gate = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, arrangements: torch.Tensor) -> torch.Tensor:
        """[images] int64 -> [images, tiles, tokens, hidden]; one token stands for all."""
        return self.table[arrangements].view(-1, *self.shape) * self.gate.tanh()


class Positions(TileVectors):
    """Vectors for the tokens of any tile, and for those of each tile of each arrangement: the gate
    opens for the one as far as it closes for the other."""

    def __init__(self, half: MllamaVisionHalf) -> None:
        super().__init__(half, half.tile_rows)
        of_tile = torch.empty(half.tile_rows, half.hidden_size)
        self.of_tile = nn.Parameter(of_tile, requires_grad=False)

    def forward(self, arrangements: torch.Tensor) -> torch.Tensor:
        return self.of_tile * (1 - self.gate.tanh()) + super().forward(arrangements)


class Embeddings(nn.Module):
    def __init__(self, half: MllamaVisionHalf) -> None:
        super().__init__()
        size, side = half.hidden_size, half.patch_size
        self.description = half
        self.patches = PatchLinear((half.channels, side, side), size, bias=False)
        self.class_token = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.tiles = TileVectors(half)
        self.positions = Positions(half)
        self.norm = LayerNorm(size)

    def forward(self, pixels: torch.Tensor, layout: MllamaLayout) -> torch.Tensor:
        """[tiles that images have, channels, tile, tile] -> [tokens, hidden]"""
        half, images = self.description, len(layout.arrangements)
        grid = half.tile // half.patch_size
        whole = pixels[..., : grid * half.patch_size, : grid * half.patch_size]
        cut = whole.unflatten(3, (grid, -1)).unflatten(2, (grid, -1))
        embedded = self.patches(cut.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), grid**2, -1))
        x = embedded.new_zeros(images * half.most_tiles, grid**2, half.hidden_size)
        x[layout.places] = embedded
        x = x.unflatten(0, (images, -1)) + self.tiles(layout.arrangements)
        class_tokens = self.class_token.expand(images, half.most_tiles, 1, -1)
        x = torch.cat([class_tokens, x], 2) + self.positions(layout.arrangements)
        x = self.norm.in_torch(x)
        padded = F.pad(x, (0, 0, 0, half.tile_tokens - half.tile_rows))
        return padded.flatten(0, 2)


class Between(nn.Module):
    """What stands between local and global layers."""

    def __init__(self, half: MllamaVisionHalf) -> None:
        super().__init__()
        self.norm, self.tiles = LayerNorm(half.hidden_size), TileVectors(half)

    def forward(self, residual: Residual, layout: MllamaLayout) -> Residual:
        x, vectors = self.norm.of_sum(residual), self.tiles(layout.arrangements)
        tiles = x.view(*vectors.shape[:2], -1, x.shape[-1])
        return Residual((tiles + vectors).flatten(0, 2))


class SelfAttention(nn.Module):
    def __init__(self, half: MllamaVisionHalf, gated: bool, shard: Shard) -> None:
        super().__init__()
        size, heads = half.hidden_size, shard.heads_of(half)
        self.heads, inner = (heads.queries.count, half.head_dim), heads.query_features
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), inner)
        self.qkv = StackedLinear(size, parts, bias=False)
        out = GatedLinear if gated else Linear
        self.out = out(inner, size, bias=False, summed_over=shard.group)

    def forward(
        self, x: LinearInput, attention: FullAttention[M], metadata: M, empty: torch.Tensor
    ) -> torch.Tensor:
        """[tokens, hidden] -> what `out` reads [tokens, heads * head_dim]."""
        q, k, v = (
            F.pad(part.unflatten(-1, self.heads), (0, MARK_FEATURES)) for part in self.qkv.split(x)
        )
        mark = self.heads[1]
        q[..., mark] = empty[:, None].to(q.dtype)
        k[..., mark] = empty[:, None].to(k.dtype) * -MARK
        return attention.run(q, k, v, metadata)[..., :mark].flatten(1)


class EncoderLayer(nn.Module):
    def __init__(self, half: MllamaVisionHalf, gated: bool, shard: Shard) -> None:
        super().__init__()
        size, inner = half.hidden_size, shard.features(half.ffn_size)
        self.norm1, self.norm2 = LayerNorm(size, half.norm_eps), LayerNorm(size, half.norm_eps)
        self.attention = SelfAttention(half, gated, shard)
        self.activation = Activation(half.activation)
        self.fc1 = Linear(size, inner)
        self.fc2 = (GatedLinear if gated else Linear)(inner, size, summed_over=shard.group)

    def forward(
        self,
        residual: Residual,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        empty: torch.Tensor,
    ) -> Residual:
        x, residual = self.norm1(residual)
        x = self.attention(x, attention, plans[FULL], empty)
        residual = self.attention.out.add_to(residual, x)

        x, residual = self.norm2(residual)
        x = self.fc1.activated(x, self.activation)
        return self.fc2.add_to(residual, x)


class MllamaVisionEncoder(ImageEncoder):
    def __init__(self, half: MllamaVisionHalf, part: Part) -> None:
        super().__init__()
        assert part.is_first, "its layers are on one stage"
        assert part.is_last
        self.description = half
        self.embeddings, self.between = Embeddings(half), Between(half)
        self.layers = nn.ModuleList(
            EncoderLayer(half, number >= half.local_layers, part.shard) for number in part.layers
        )
        self.projector = Projector(half.projector, half.features)

    def layout(self, images: Sequence[ImageShape]) -> MllamaLayout:
        half = self.description
        tiles = np.array([image.pixels[0] for image in images])
        is_own = np.arange(half.most_tiles) < tiles[:, None]  # [images, tiles]
        tokens = np.arange(half.tile_tokens) < half.tile_rows
        empty = ~(is_own[..., None] & tokens).reshape(-1)
        places, arrangements, marks = together_to_device(
            [
                np.flatnonzero(is_own),
                np.array([half.arrangement(image) for image in images]),
                empty,
            ],
            self.embeddings.class_token.device,
        )
        lengths = np.full(len(images), half.most_tiles * half.tile_tokens)
        return MllamaLayout({FULL: lengths}, places, arrangements, marks)

    def embed(self, pixels: Sequence[torch.Tensor], layout: MllamaLayout) -> torch.Tensor:
        embedded: torch.Tensor = self.embeddings(torch.cat(list(pixels)), layout)
        return embedded

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: MllamaLayout | None = None,
    ) -> torch.Tensor:
        assert layout is not None
        half, residual = self.description, Residual(x)
        states: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self.layers):
            if number == half.local_layers:
                residual = self.between(residual, layout)
            residual = layer(residual, attention, plans, layout.empty)
            if number in half.feature_layers:
                states[number] = self._rows(residual)
        last = self._rows(residual if half.global_layers else self.between(residual, layout))
        if half.feature_layers:
            beside = torch.stack([states[number] for number in half.feature_layers], -1)
            last = torch.cat([last, beside.flatten(1)], -1)
        rows: torch.Tensor = self.projector(last)
        return rows

    def _rows(self, residual: Residual) -> torch.Tensor:
        """The stream [tokens, hidden] without padding of tiles -> [rows, hidden]"""
        half = self.description
        tiles = residual.total().unflatten(0, (-1, half.tile_tokens))
        return tiles[:, : half.tile_rows].flatten(0, 1)
