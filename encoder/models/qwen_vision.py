"""The vision encoders of Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025).

Rotary positions by row and column. A token sees the patches of its own frame; in most layers of
Qwen2.5's, those of its window. For that, tokens are ordered by windows, and rows that come out are
put back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.config.arithmetic import ceil_div
from antiphon.encoder.models.interface import PatchEncoder, PatchLayout
from antiphon.encoder.models.length_sets import FULL
from antiphon.encoder.models.projector import Projector
from antiphon.families.image_halves import ImageShape
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, LinearInput, Norm, RMSNorm
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import Rotation
from antiphon.layers.shard import Part, Shard
from antiphon.layers.stored_linear import PackedLinear, PatchLinear
from antiphon.runtime.device import together_to_device

WINDOW = "window"  # name of the set of windows
KEPT_GRIDS = 256  # sizes of images whose order of tokens is kept


@dataclass(frozen=True)
class QwenLayout(PatchLayout):
    """`tokens` [tokens] int64: which of the processor's patches each token is. `rows` [rows] int64:
    which of the rows by windows comes out at each place. None: in the processor's order."""

    rotation: Rotation
    tokens: torch.Tensor | None
    rows: torch.Tensor | None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        orders = [order for order in (self.tokens, self.rows) if order is not None]
        return self.rotation.cos, self.rotation.sin, *orders


@dataclass(frozen=True)
class FrameOrder:
    """Of the patches of one frame. `windows` [windows] int: lengths, in tokens."""

    row: np.ndarray  # [tokens] int64, of each token in its order
    column: np.ndarray  # the same
    groups: np.ndarray  # [rows that come out] int64: which merged patch each group of tokens is
    windows: np.ndarray


def frame_order(rows: int, columns: int, merge: int, window: int | None) -> FrameOrder:
    """Of a frame of `rows` by `columns` patches, `merge` by `merge` of which lie together;
    `window`: rows and columns of such groups, where there are windows."""
    down, across = rows // merge, columns // merge
    y, x = (place.reshape(-1) for place in np.mgrid[:down, :across])
    groups, windows = np.arange(down * across), np.array([rows * columns])
    if window is not None:
        number = (y // window) * -(-across // window) + x // window
        groups = np.argsort(number, kind="stable")
        windows = np.bincount(number) * merge**2
    inner_y, inner_x = (place.reshape(-1) for place in np.mgrid[:merge, :merge])
    row = (y[groups, None] * merge + inner_y).reshape(-1)
    column = (x[groups, None] * merge + inner_x).reshape(-1)
    return FrameOrder(row, column, groups, windows)


kept_order = lru_cache(KEPT_GRIDS)(frame_order)


def make_norm(half: QwenVisionHalf) -> Norm:
    if half.norm == "rms":
        return RMSNorm(half.hidden_size, half.norm_eps)
    return LayerNorm(half.hidden_size, half.norm_eps)


class SelfAttention(nn.Module):
    def __init__(self, half: QwenVisionHalf, shard: Shard) -> None:
        super().__init__()
        size, heads = half.hidden_size, shard.heads_of(half)
        self.heads, inner = (heads.queries.count, half.head_dim), heads.query_features
        self.qkv = PackedLinear(size, dict.fromkeys("qkv", inner), bias=True)
        self.out = Linear(inner, size, summed_over=shard.group)

    def forward(
        self, x: LinearInput, attention: FullAttention[M], metadata: M, rotation: Rotation
    ) -> torch.Tensor:
        """[tokens, hidden] -> what `out` reads [tokens, heads * head_dim]."""
        q, k, v = (part.unflatten(-1, self.heads) for part in self.qkv.split(x))
        q, k = rotation.turn(q, k)
        return attention.run(q, k, v, metadata).flatten(1)


class EncoderLayer(nn.Module):
    def __init__(self, half: QwenVisionHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        self.lengths = WINDOW if half.windowed(layer) else FULL
        self.norm1, self.norm2 = make_norm(half), make_norm(half)
        self.attention = SelfAttention(half, shard)
        self.activation = Activation(half.activation)
        self.gated, inner = half.gated, shard.features(half.ffn_size)
        if half.gated:
            parts = dict.fromkeys(("gate_proj", "up_proj"), inner)
            self.gate_up = StackedLinear(half.hidden_size, parts, bias=True)
            self.down = Linear(inner, half.hidden_size, summed_over=shard.group)
        else:
            self.fc1 = Linear(half.hidden_size, inner)
            self.fc2 = Linear(inner, half.hidden_size, summed_over=shard.group)

    def forward(
        self,
        residual: Residual,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        rotation: Rotation,
    ) -> Residual:
        x, residual = self.norm1(residual)
        x = self.attention(x, attention, plans[self.lengths], rotation)
        residual = self.attention.out.add_to(residual, x)

        x, residual = self.norm2(residual)
        if not self.gated:
            return self.fc2.add_to(residual, self.fc1.activated(x, self.activation))
        gate, up = self.gate_up.split(x)
        activated: torch.Tensor | QuantizedRows = self.activation(gate, up)
        return self.down.add_to(residual, activated)


class QwenVisionEncoder(PatchEncoder):
    def __init__(self, half: QwenVisionHalf, part: Part) -> None:
        super().__init__()
        self.description, size = half, half.hidden_size
        self.patches = None
        if part.is_first:
            kernel = (half.channels, half.frames, half.patch_size, half.patch_size)
            self.patches = PatchLinear(kernel, size, bias=False)
        self.layers = nn.ModuleList(EncoderLayer(half, n, part.shard) for n in part.layers)
        self.norm = make_norm(half) if part.is_last else None
        self.projector = Projector(half.projector, size) if part.is_last else None
        angles = half.head_dim // 4  # of rows, and as many of columns
        frequencies = half.rotary_theta ** -(torch.arange(angles, dtype=torch.float32) / angles)
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def layout(self, images: Sequence[ImageShape]) -> QwenLayout:
        half, frames = self.description, self._frames(images)
        merge = half.projector.merge
        y, x, *orders = together_to_device(
            [
                np.concatenate([frame.row for frame in frames]),
                np.concatenate([frame.column for frame in frames]),
                *([] if half.window is None else _orders(frames, merge)),
            ],
            self.frequencies.device,
        )
        angles = torch.cat([place[:, None] * self.frequencies for place in (y, x)], 1)
        rotation, (tokens, rows) = Rotation(angles.cos(), angles.sin()), orders or (None, None)
        return QwenLayout(self._lengths(frames), rotation, tokens, rows)

    def _frames(self, images: Sequence[ImageShape]) -> list[FrameOrder]:
        half, frames = self.description, []
        for image in images:
            count, rows, columns, _ = image.pixels
            # One row of groups: mostly a filler, of which there are too many sizes to keep.
            order = frame_order if rows == half.projector.merge else kept_order
            frames += [order(rows, columns, half.projector.merge, half.window)] * count
        return frames

    def sequences(self, images: Sequence[ImageShape]) -> dict[str, int]:
        half, sizes = self.description, [image.pixels for image in images]
        counts = {FULL: sum(frames for frames, *_ in sizes)}
        if half.window is not None:
            side = half.window * half.projector.merge
            counts[WINDOW] = sum(
                frames * ceil_div(rows, side) * ceil_div(columns, side)
                for frames, rows, columns, _ in sizes
            )
        return counts

    def _lengths(self, frames: Sequence[FrameOrder]) -> dict[str, np.ndarray]:
        lengths = {FULL: np.array([len(frame.row) for frame in frames])}
        if self.description.window is not None:
            lengths[WINDOW] = np.concatenate([frame.windows for frame in frames])
        return lengths

    def longest(self, tokens: int) -> dict[str, int]:
        half, longest = self.description, {FULL: tokens}
        if half.window is not None:
            longest[WINDOW] = min(tokens, (half.window * half.projector.merge) ** 2)
        return longest

    def filler(self, tokens: int) -> ImageShape:
        half, merge = self.description, self.description.projector.merge
        return ImageShape((1, merge, tokens // merge, half.patch_features))

    def embed(self, pixels: Sequence[torch.Tensor], layout: QwenLayout) -> torch.Tensor:
        assert self.patches is not None
        patches = torch.cat([image.flatten(0, 2) for image in pixels])
        if layout.tokens is not None:
            patches = patches[layout.tokens]
        embedded: torch.Tensor = self.patches(patches)
        return embedded

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: QwenLayout | None = None,
    ) -> torch.Tensor:
        assert layout is not None
        residual = Residual(x)
        for layer in self.layers:
            residual = layer(residual, attention, plans, layout.rotation)
        if self.norm is None or self.projector is None:
            return residual.total()
        hidden = self.norm.of_sum(residual)
        rows: torch.Tensor = self.projector(hidden.view(-1, self.projector.linear_1.inputs.count))
        return rows if layout.rows is None else rows[layout.rows]


def _orders(frames: Sequence[FrameOrder], merge: int) -> tuple[np.ndarray, np.ndarray]:
    """`tokens` and `rows` as `QwenLayout` has them."""
    counts = np.array([len(frame.groups) for frame in frames])
    first = np.repeat(counts.cumsum() - counts, counts)
    groups = np.concatenate([frame.groups for frame in frames]) + first
    tokens = groups[:, None] * merge**2 + np.arange(merge**2)
    return tokens.reshape(-1), np.argsort(groups)
