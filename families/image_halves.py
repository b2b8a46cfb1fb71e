"""Descriptions of encoders of images, one class per structure; see `halves`.

An image comes as one array of numbers, in the form that its checkpoint's image processor makes.
What a half says of an image depends on its `ImageShape` alone.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from antiphon.config.errors import CheckpointError
from antiphon.families.any_resolution import AnyResolution
from antiphon.families.halves import Half
from antiphon.families.image_names import NAMES, Naming, image_names
from antiphon.families.tensor_names import Side

# What an image's pooled embedding is made of, by our own names:
# first: the class token; first_normed: it, behind a norm (CLIP); first_tanh: it, behind a linear
# layer and a tanh (ViT). attention: a learned query's attention to all tokens, and a feed-forward
# layer (SigLIP). mean: of all tokens (Swin). patches_normed: the patches' mean, behind a norm
# (BEiT).
Pooling = Literal[
    "first", "first_normed", "first_tanh", "attention", "mean", "patches_normed"
]  # fmt: skip

NEWLINE, NEWLINE_STORED = "mosaics.newline", "image_newline"
PROJECTOR_LAYERS = ("norm", "linear_1", "linear_2")


@dataclass(frozen=True)
class ImageShape:
    """The sizes of one image.

    `pixels`: of its array: [tiles, channels, height, width] or, where the processor cuts patches
    itself, [frames, rows, columns, features of a patch]. `size`: height and width of the image
    before it was resized and tiled, in pixels; rows and columns of its tiles, where the processor
    tells them (`MllamaVisionHalf`); (0, 0) where the model does not ask.
    """

    pixels: tuple[int, int, int, int]
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Projector:
    """What turns an encoder's hidden states into rows of a decoder's width: two linear layers with
    an activation between them, or one (`activation` None).

    `merge`: so many by so many neighbouring patches become one row. `inner_size`: between the
    layers; 0: as `output_size`. `norm`: a LayerNorm before the first layer, of merged patches.
    `stored`: what checkpoints call the norm and both layers, behind one of `prefixes`.
    """

    output_size: int
    activation: str | None
    stored: tuple[str, str, str]
    merge: int = 1
    inner_size: int = 0
    norm: bool = False
    norm_eps: float = 1e-5
    bias: bool = True
    prefixes: tuple[str, ...] = ("", "model.")


@dataclass(frozen=True, kw_only=True)
class ImageHalf(Half):
    """An encoder of images, with the projector behind it where a decoder follows."""

    frontend: ClassVar[str] = "image"

    side: Side = "encoder"
    vocab_size: int = 0
    pre_norm: bool = True
    max_positions: int  # the most rows that one input becomes
    channels: int = 3
    patch_size: int
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float
    naming: Naming
    prefixes: tuple[str, ...] = ("",)  # what may stand before the names of its tensors
    projector: Projector | None = None
    pooling: Pooling | None = None

    @property
    def output_size(self) -> int:
        return self.hidden_size if self.projector is None else self.projector.output_size

    @property
    def tiled_alone(self) -> bool:
        """Whether images are cut into tiles only where they are alone in a prompt."""
        return False

    @property
    @abstractmethod
    def smallest(self) -> ImageShape:
        """The smallest image that the encoder takes."""

    @property
    def usual_tile(self) -> ImageShape | None:
        """The size that its processor gives to tiles, where it is one size."""
        return None

    @abstractmethod
    def tokens(self, image: ImageShape) -> int:
        """How many tokens of this image attend to each other, or to some of each other.

        Raises ValueError for an image that the encoder can't take.
        """

    @abstractmethod
    def rows(self, image: ImageShape) -> int:
        """How many rows [`output_size`] come out. Raises as `tokens`."""

    def rows_of_tile(self, image: ImageShape) -> int:
        """How many rows [`output_size`] each of its tiles becomes, before they are assembled."""
        return self.rows(image) // image.pixels[0]

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        if self.projector is not None and path.startswith("projector."):
            _, layer, tensor = path.split(".")
            stored = self.projector.stored[PROJECTOR_LAYERS.index(layer)]
            return tuple(f"{prefix}{stored}.{tensor}" for prefix in self.projector.prefixes)
        if self.projector is not None and path == NEWLINE:
            return tuple(f"{prefix}{NEWLINE_STORED}" for prefix in self.projector.prefixes)
        return image_names(NAMES[self.naming], self.prefixes, path)


@dataclass(frozen=True, kw_only=True)
class VitHalf(ImageHalf):
    """A vision transformer (Dosovitskiy et al. 2021), and what SigLIP, CLIP, DeiT, InternViT and
    BEiT change in it."""

    structure: ClassVar[str] = "vit"

    image_size: tuple[int, int]  # height and width that the positions were trained for
    any_size: bool = False  # positions are interpolated for other sizes
    class_tokens: int  # in front of the patches
    patch_bias: bool = True
    positions: bool = True  # a learned vector for each token
    embedding_norm: bool = False  # behind positions (CLIP)
    qkv_bias: bool = True
    key_bias: bool = True  # where the projections have biases
    packed_qkv: bool = False  # a checkpoint stores the three projections as one tensor
    qk_norm: bool = False  # an RMS norm over all heads of queries, and over all of keys
    # Learned biases of attention by rows and columns between patches: one for all layers, and one
    # for each of them (BEiT).
    shared_bias: bool = False
    layer_bias: bool = False
    layer_scale: bool = False  # a learned factor for each feature of what a sublayer adds
    final_norm: bool = True
    pooled_size: int = 0  # of an embedding behind a last projection (CLIP); 0: without one
    stored_layers: int = (
        0  # of them, the last ones are not run, where an earlier one's states count
    )
    class_rows: bool = True  # class tokens are among the rows that come out
    # Numbers of layers behind which the projector reads the stream, side by side; empty: the last.
    feature_layers: tuple[int, ...] = ()
    tiles: AnyResolution | None = None  # how they are put together, where they are

    @property
    def one_stage(self) -> str:
        return "the decoder reads the states of several layers" if self.feature_layers else ""

    @property
    def window_bias(self) -> bool:
        return self.shared_bias or self.layer_bias

    @property
    def features(self) -> int:
        """Of a patch, for the projector."""
        return self.hidden_size * max(1, len(self.feature_layers))

    @property
    def tiled_alone(self) -> bool:
        return self.tiles is not None and self.tiles.alone

    @property
    def feed_forward_matrices(self) -> int:
        return 2

    @property
    def last_norm(self) -> str:
        return "norm" if self.final_norm else ""

    def skips(self, name: str) -> bool:
        """Whether the tensor of this name in a checkpoint is of a layer that is not run."""
        layers = NAMES[self.naming].layers
        return any(
            name.startswith(f"{prefix}{layers}.{number}.")
            for prefix in self.prefixes
            for number in range(self.num_layers, self.stored_layers)
        )

    @property
    def trained_grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def smallest(self) -> ImageShape:
        side = self.patch_size * (1 if self.projector is None else self.projector.merge)
        sizes = (side, side) if self.any_size else self.image_size
        return ImageShape((1, self.channels, *sizes))

    @property
    def usual_tile(self) -> ImageShape | None:
        merge = 1 if self.projector is None else self.projector.merge
        if any(patches % merge for patches in self.trained_grid):
            return None
        return ImageShape((1, self.channels, *self.image_size))

    def grid(self, image: ImageShape) -> tuple[int, int]:
        """Rows and columns of patches of each tile. Raises ValueError as `tokens`."""
        _, channels, height, width = image.pixels
        shown = f"an image of {channels} channels and {height} x {width} pixels"
        if channels != self.channels:
            raise ValueError(f"{shown}: this model takes {self.channels} channels")
        if not self.any_size and (height, width) != self.image_size:
            raise ValueError(
                f"{shown}: this model takes {self.image_size[0]} x {self.image_size[1]}"
            )
        if min(height, width) < self.patch_size:
            raise ValueError(f"{shown}: it is smaller than a patch of {self.patch_size} pixels")
        return height // self.patch_size, width // self.patch_size

    def tile_tokens(self, image: ImageShape) -> int:
        """Of each tile: its patches and class tokens. Raises ValueError as `tokens`."""
        rows, columns = self.grid(image)
        return rows * columns + self.class_tokens

    def tokens(self, image: ImageShape) -> int:
        return image.pixels[0] * self.tile_tokens(image)

    def rows(self, image: ImageShape) -> int:
        if self.tiles is not None:
            self.grid(image)
            return self.tiles.rows(image.pixels[0], image.size)
        return image.pixels[0] * self.rows_of_tile(image)

    def rows_of_tile(self, image: ImageShape) -> int:
        rows, columns = self.grid(image)
        merge = 1 if self.projector is None else self.projector.merge
        if rows % merge or columns % merge:
            raise ValueError(
                f"a grid of {rows} x {columns} patches can't be merged by {merge} x {merge}"
            )
        patches = (rows // merge) * (columns // merge)
        return patches + (self.class_tokens if self.class_rows else 0)

    def check(self, model: str) -> None:
        super().check(model)
        if min(self.trained_grid) < 1:
            raise CheckpointError(
                f"{model}: images of {self.image_size[0]} x {self.image_size[1]} pixels are "
                f"smaller than its patches of {self.patch_size}"
            )
