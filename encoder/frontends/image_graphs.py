"""What graphs of image encoders read.

Where all tiles have one size, graphs are captured for numbers of tiles: where these lie is the same
in every batch. Where images have any sizes, graphs are captured for numbers of tokens, and a batch
is filled up with one more image, of which nobody reads what comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from antiphon.attention.interface import FullBatch
from antiphon.encoder.frontends.graph_sizes import MAX_GRAPH_TOKENS, graph_sizes
from antiphon.encoder.frontends.image_batch import ImageBatch
from antiphon.encoder.frontends.interface import GraphInputs
from antiphon.encoder.models.interface import ImageEncoder, Layout, PatchEncoder, PatchLayout
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.runtime.device import Target, together_to_device

PATCHES = 32  # a number of tokens that patch graphs have is a multiple of this, or of a row's
# Of a graph: beyond, launching matters less, and more attention programs are idle.
MAX_PATCHES = 4096
# A graph has room for sequences that are this share of the longest, or of so many tokens, at the
# most; an empty one costs a row of attention programs.
SHARE, MAX_LENGTH = 4, 1024
MIN_SEQUENCES = 8
FREE_PADDING = 1024  # padding up to here costs no time: launching takes longer


@dataclass(frozen=True)
class TileShape:
    tiles: int
    tokens: int
    rows: int


class TileGraphInputs(GraphInputs[ImageBatch, TileShape]):
    """Of an encoder that makes `rows` of each tile, wherever it stands."""

    def __init__(
        self,
        encoder: ImageEncoder,
        half: ImageHalf,
        tile: ImageShape,
        max_batch_rows: int,
        target: Target,
    ) -> None:
        """`tile`: of which there are graphs."""
        self._encoder, self._sizes = encoder, tile.pixels[1:]
        tokens, self._rows = half.tokens(tile), half.rows_of_tile(tile)
        most = max(1, min(MAX_GRAPH_TOKENS // tokens, max_batch_rows // self._rows))
        self.shapes = [
            TileShape(tiles, tiles * tokens, tiles * self._rows)
            for tiles in reversed(graph_sizes(most, 1))
        ]
        self._device = target.device
        self._tiles = torch.zeros(most, *self._sizes, dtype=target.dtype, device=target.device)
        self._layouts: dict[TileShape, Layout] = {
            shape: encoder.layout([ImageShape((shape.tiles, *self._sizes))])
            for shape in self.shapes
        }

    def choose(self, batch: ImageBatch) -> TileShape | str:
        others = {shape.pixels[1:] for shape in batch.shapes} - {self._sizes}
        if others:
            own, other = (f"{rows} x {columns}" for _, rows, columns in (self._sizes, others.pop()))
            return f"tiles of {own} pixels have graphs, those of {other} have none"
        tiles = self._count(batch)
        fitting = [shape for shape in self.shapes if shape.tiles >= tiles]
        if not fitting:
            return f"{tiles} tiles are more than the largest graph's {len(self._tiles)}"
        return fitting[-1]

    def rows_of(self, batch: ImageBatch) -> int:
        return self._count(batch) * self._rows

    def attention_batches(self, shape: TileShape) -> dict[str, FullBatch]:
        return {
            name: FullBatch.of(lengths, self._device)
            for name, lengths in self._layouts[shape].lengths.items()
        }

    def embed(self, shape: TileShape) -> torch.Tensor:
        return self._encoder.embed([self._tiles[: shape.tiles]], self._layouts[shape])

    def layout(self, shape: TileShape) -> Layout:
        return self._layouts[shape]

    def fill(self, shape: TileShape, batch: ImageBatch) -> None:
        tiles = self._tiles[: self._count(batch)]
        tiles.copy_(batch.values.view(tiles.shape))

    @staticmethod
    def _count(batch: ImageBatch) -> int:
        return sum(shape.pixels[0] for shape in batch.shapes)


@dataclass(frozen=True)
class PatchShape:
    tokens: int
    rows: int


class PatchGraphInputs(GraphInputs[ImageBatch, PatchShape]):
    """Of an encoder of images of any sizes."""

    def __init__(
        self, encoder: PatchEncoder, half: ImageHalf, max_batch_rows: int, target: Target
    ) -> None:
        self._encoder = encoder
        smallest = half.smallest
        unit = half.tokens(smallest) // half.rows(smallest)  # tokens of a row
        step = -(-PATCHES // unit) * unit
        most = max(step, min(MAX_PATCHES // step * step, max_batch_rows * unit))
        self.shapes = [
            PatchShape(tokens, tokens // unit) for tokens in reversed(graph_sizes(most, step))
        ]
        self.most_rows = self.shapes[0].rows
        self._patches = torch.zeros(
            most, smallest.pixels[3], dtype=target.dtype, device=target.device
        )
        self._layouts: dict[PatchShape, PatchLayout] = {
            shape: encoder.layout([encoder.filler(shape.tokens)]) for shape in self.shapes
        }
        self._batches = {shape: self._rooms(shape, target.device) for shape in self.shapes}

    def _rooms(self, shape: PatchShape, device: torch.device) -> dict[str, FullBatch]:
        """For sequences of each set, all of which are empty yet."""
        batches = {}
        for name, longest in self._encoder.longest(shape.tokens).items():
            room = MIN_SEQUENCES + shape.tokens * SHARE // min(longest, MAX_LENGTH)
            cu_seqlens = torch.zeros(room + 1, dtype=torch.int32, device=device)
            batches[name] = FullBatch(np.full(room, longest), cu_seqlens, longest)
        return batches

    def choose(self, batch: ImageBatch) -> PatchShape | str:
        tokens = int(batch.lengths.sum())
        for shape in reversed(self.shapes):
            if shape.tokens < tokens:
                continue
            if shape.tokens > max(FREE_PADDING, 2 * tokens):
                return f"padding {tokens} tokens to {shape.tokens} costs more than a graph saves"
            if self._has_room(shape, self._encoder.sequences(self._filled(shape, batch))):
                return shape
        return f"no graph holds {len(batch.shapes)} images of {tokens} tokens"

    def _has_room(self, shape: PatchShape, sequences: Mapping[str, int]) -> bool:
        rooms = self._batches[shape]
        return all(count <= len(rooms[name].lengths) for name, count in sequences.items())

    def _filled(self, shape: PatchShape, batch: ImageBatch) -> Sequence[ImageShape]:
        """The images of `batch`, and behind them the one that fills the graph of `shape`."""
        missing = shape.tokens - int(batch.lengths.sum())
        return [*batch.shapes, self._encoder.filler(missing)] if missing else batch.shapes

    def rows_of(self, batch: ImageBatch) -> int:
        smallest = self.shapes[-1]
        return int(batch.lengths.sum()) * smallest.rows // smallest.tokens

    def attention_batches(self, shape: PatchShape) -> dict[str, FullBatch]:
        return self._batches[shape]

    def embed(self, shape: PatchShape) -> torch.Tensor:
        patches = self._patches[: shape.tokens]
        return self._encoder.embed([patches[None, None]], self._layouts[shape])

    def layout(self, shape: PatchShape) -> PatchLayout:
        return self._layouts[shape]

    def fill(self, shape: PatchShape, batch: ImageBatch) -> None:
        patches = self._patches[: int(batch.lengths.sum())]
        patches.copy_(batch.values.view(patches.shape))
        layout, rooms = self._encoder.layout(self._filled(shape, batch)), self._batches[shape]
        arrays = []
        for name, lengths in layout.lengths.items():
            # Sequences that the batch lacks are empty ones, at the end.
            ends = np.full(len(rooms[name].cu_seqlens), shape.tokens, np.int32)
            ends[0], ends[1 : len(lengths) + 1] = 0, lengths.cumsum()
            arrays.append(ends)
        starts = together_to_device(arrays, self._patches.device)
        for name, ends_on_device in zip(layout.lengths, starts, strict=True):
            rooms[name].cu_seqlens.copy_(ends_on_device)
        for kept, new in zip(self._layouts[shape].tensors, layout.tensors, strict=True):
            kept.copy_(new)
