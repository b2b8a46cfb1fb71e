"""Florence-2's encoder (Xiao et al. 2024): DaViT's rows of an image, then the text that is asked
about it, through the layers of BART's encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.bart import EncoderLayer
from antiphon.encoder.models.davit import Davit, RowsOfImages
from antiphon.encoder.models.interface import ImageEncoder, Layout
from antiphon.encoder.models.length_sets import FULL
from antiphon.families.florence2_half import Florence2Half
from antiphon.families.image_halves import ImageShape
from antiphon.layers.embeddings import TokenEmbedding
from antiphon.layers.norms import LayerNorm
from antiphon.layers.shard import Part
from antiphon.runtime.device import together_to_device


@dataclass(frozen=True)
class ImageTextLayout(Layout):
    """All int64, on the device. `ids` [words]: of all texts. `sources` [tokens]: which of the rows
    of all images, followed by `ids`, each token is. `positions` [tokens]: within its input."""

    ids: torch.Tensor
    sources: torch.Tensor
    positions: torch.Tensor


class Florence2Encoder(ImageEncoder):
    def __init__(self, half: Florence2Half, part: Part) -> None:
        super().__init__()
        self.description, text = half, half.text
        self.tower = self.rows = self.embedding = None
        if part.is_first:
            self.tower, self.rows = Davit(half, part.shard), RowsOfImages(half)
            self.embedding = TokenEmbedding(text, part.shard)
        self.layers = nn.ModuleList(EncoderLayer(text, part.shard) for _ in part.layers)
        has_norm = text.pre_norm and part.is_last
        self.layer_norm = LayerNorm(text.hidden_size) if has_norm else None

    def layout(
        self, images: Sequence[ImageShape], texts: Sequence[np.ndarray] = ()
    ) -> ImageTextLayout:
        """`texts`: ids [words] of each image's text; by default none has one."""
        texts = texts or [np.zeros(0, np.int64)] * len(images)
        rows = np.array([self.description.rows(image) for image in images])
        words = np.array([len(ids) for ids in texts])
        first_rows, first_words = rows.cumsum() - rows, rows.sum() + words.cumsum() - words
        sources = [
            np.concatenate([row + np.arange(image), word + np.arange(text)])
            for row, image, word, text in zip(first_rows, rows, first_words, words, strict=True)
        ]
        lengths = rows + words
        arrays = [
            np.concatenate(texts).astype(np.int64),
            np.concatenate(sources),
            np.concatenate([np.arange(length) for length in lengths]),
        ]
        device = next(self.layers.parameters()).device
        return ImageTextLayout({FULL: lengths}, *together_to_device(arrays, device))

    def embed(self, pixels: Sequence[torch.Tensor], layout: ImageTextLayout) -> torch.Tensor:
        assert self.tower is not None
        assert self.rows is not None
        assert self.embedding is not None
        images = [self.rows(self.tower(alike)).flatten(0, 1) for alike in pixels]
        both = torch.cat([*images, self.embedding.words(layout.ids)])
        return self.embedding.placed(both[layout.sources], layout.positions)

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: object = None,
    ) -> torch.Tensor:
        return self.run_layers(x, attention, plans, self.layer_norm)
