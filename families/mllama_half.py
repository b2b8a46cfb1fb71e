"""Descriptions of the halves of Llama 3.2 Vision (Grattafiori et al. 2024, section 7); see
`halves`."""

import re
from dataclasses import dataclass
from typing import ClassVar

from antiphon.config.errors import CheckpointError
from antiphon.families.halves import LlamaHalf
from antiphon.families.image_halves import ImageHalf, ImageShape, Projector

LAYER = r"transformer\.layers\.(\d+)\."
STORED = {  # parts of our paths in the decoder, and what checkpoints call them
    ".cross_attention.o_proj.gate": ".cross_attn_attn_gate",
    ".feed_forward.down_proj.gate": ".cross_attn_mlp_gate",
    ".cross_attention.norms.": ".cross_attn.",
    ".cross_attention.": ".cross_attn.",
}
PADDED_TO = 8  # tokens of a tile are a multiple of it, the last ones padding
MARK_FEATURES = 8  # that attention sees of a head beside its own; backends take multiples of 8


@dataclass(frozen=True, kw_only=True)
class MllamaVisionHalf(ImageHalf):
    """A vision transformer over the tiles of an image, with vectors for their arrangement.

    `num_layers` are the local layers, and behind them `global_layers` whose sublayers have gates.
    Both see the whole image: its tiles are `most_tiles`, of which some are empty. What comes out
    is the last state beside those behind `feature_layers`, projected.

    Sizes of an `ImageShape`: rows and columns of its tiles.
    """

    structure: ClassVar[str] = "mllama"
    layers_read: ClassVar[str] = "the decoder reads the states of several layers"

    projector: Projector
    tile: int  # height and width, in pixels
    most_tiles: int
    arrangements: tuple[tuple[int, int], ...]  # rows and columns of tiles, by number from 1
    global_layers: int
    feature_layers: tuple[int, ...]  # numbers of local layers

    @property
    def one_stage(self) -> str:
        return self.layers_read

    @property
    def attention_head_dim(self) -> int:
        return self.head_dim + MARK_FEATURES

    @property
    def local_layers(self) -> int:
        return self.num_layers - self.global_layers

    @property
    def features(self) -> int:
        """Of a token, for the projector."""
        return self.hidden_size * (1 + len(self.feature_layers))

    @property
    def tile_rows(self) -> int:
        """Tokens of a tile: its patches and the class token."""
        return (self.tile // self.patch_size) ** 2 + 1

    @property
    def tile_tokens(self) -> int:
        """The same with padding."""
        return -(-self.tile_rows // PADDED_TO) * PADDED_TO

    @property
    def feed_forward_matrices(self) -> int:
        return 2

    @property
    def last_norm(self) -> str:
        return ""

    @property
    def smallest(self) -> ImageShape:
        return ImageShape((1, self.channels, self.tile, self.tile), self.arrangements[0])

    def arrangement(self, image: ImageShape) -> int:
        """Its number, from 1. Raises ValueError as `tokens`."""
        tiles, channels, height, width = image.pixels
        if (channels, height, width) != (self.channels, self.tile, self.tile):
            raise ValueError(
                f"tiles of {channels} channels and {height} x {width} pixels: this model takes "
                f"{self.channels} and {self.tile} x {self.tile}"
            )
        down, across = image.size
        if image.size not in self.arrangements or tiles != down * across:
            raise ValueError(
                f"{tiles} tiles in {down} rows of {across}: this model knows "
                f"{', '.join(f'{rows} x {columns}' for rows, columns in self.arrangements)}"
            )
        return self.arrangements.index(image.size) + 1

    def tokens(self, image: ImageShape) -> int:
        """Of all its tiles: those that it has, the empty ones and the padding of each."""
        self.arrangement(image)
        return self.most_tiles * self.tile_tokens

    def rows(self, image: ImageShape) -> int:
        """Of all its tiles, the empty ones last."""
        self.arrangement(image)
        return self.most_tiles * self.tile_rows

    def rows_shown(self, image: ImageShape) -> int:
        """Of the tiles that it has."""
        return image.pixels[0] * self.tile_rows

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        return tuple(re.sub(LAYER, self._layer, name) for name in super().checkpoint_names(path))

    def _layer(self, match: re.Match[str]) -> str:
        behind = int(match[1]) - self.local_layers
        return match[0] if behind < 0 else f"global_transformer.layers.{behind}."

    def check(self, model: str) -> None:
        super().check(model)
        if not self.tile_rows % PADDED_TO:
            raise CheckpointError(
                f"{model}: {self.tile_rows} tokens of a tile need no padding, for which "
                "transformers' masks are undefined"
            )
        wrong = [number for number in self.feature_layers if not 0 <= number < self.local_layers]
        if wrong:
            raise CheckpointError(
                f"{model}: intermediate_layers_indices has {wrong[0]}; its vision encoder has "
                f"layers 0 to {self.local_layers - 1}"
            )
        if max(rows * columns for rows, columns in self.arrangements) > self.most_tiles:
            raise CheckpointError(
                f"{model}: supported_aspect_ratios need more than {self.most_tiles} tiles"
            )


@dataclass(frozen=True, kw_only=True)
class MllamaHalf(LlamaHalf):
    """Llama's decoder, in which the layers `cross_layers` attend to images in place of their own
    tokens, behind gates."""

    structure: ClassVar[str] = "mllama"
    cross_attention: ClassVar[bool] = True
    most_attended: ClassVar[int] = 8

    cross_layers: tuple[int, ...]
    extra_words: int = 8  # of the embedding, behind the vocabulary: the image's token among them

    @property
    def needs_keys(self) -> str:
        return "a norm stands between the projection of its keys and attention"

    @property
    def num_embedded(self) -> int:
        return self.vocab_size + self.extra_words

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        for ours, stored in STORED.items():
            path = path.replace(ours, stored)
        return super().checkpoint_names(path)

    def ties_head(self, stored: bool, configured: bool) -> bool:
        """Never: the embedding has more words than the head."""
        if not stored:
            raise CheckpointError(f"the checkpoint holds no {self.head_names[0]}")
        return False

    def check(self, model: str) -> None:
        super().check(model)
        wrong = [number for number in self.cross_layers if not 0 <= number < self.num_layers]
        if wrong or len(self.cross_layers) == self.num_layers:
            raise CheckpointError(
                f"{model}: cross_attention_layers={list(self.cross_layers)} must be some of "
                f"0 to {self.num_layers - 1}, and not all of them"
            )
