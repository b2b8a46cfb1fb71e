"""Description of Swin's encoder (Liu et al. 2021); see `halves`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.families.sizes import pair, square

LAYER = r"encoder\.layers\.(\d+)\."
Grid = tuple[int, int]  # rows and columns of tokens


@dataclass(frozen=True)
class SwinStage:
    """Layers of one width. Behind each stage but the last one, 2 by 2 tokens become one."""

    size: int
    layers: int
    heads: int
    ffn_size: int


@dataclass(frozen=True, kw_only=True)
class SwinHalf(ImageHalf):
    """Tokens attend within windows of `window` by `window`; in every other layer windows are
    shifted by half of that. `hidden_size` is that of the last stage, `num_heads` and `ffn_size` are
    those of the first one, which bound how many ranks may share a layer."""

    structure: ClassVar[str] = "swin"
    equal_layers: ClassVar[bool] = False

    stages: tuple[SwinStage, ...]
    window: int
    image_size: tuple[int, int]  # height and width that it was trained for
    qkv_bias: bool = True
    final_norm: bool

    @property
    def window_bias(self) -> bool:
        return True

    @property
    def feed_forward_matrices(self) -> int:
        return 2

    @property
    def last_norm(self) -> str:
        return "norm" if self.final_norm else ""

    @property
    def smallest(self) -> ImageShape:
        """Every stage needs a whole window."""
        side = self.patch_size * self.window * 2 ** (len(self.stages) - 1)
        return ImageShape((1, self.channels, side, side))

    @property
    def usual_tile(self) -> ImageShape | None:
        return ImageShape((1, self.channels, *self.image_size))

    def grids(self, image: ImageShape) -> list[Grid]:
        """Rows and columns of tokens in each stage. Raises ValueError as `tokens`."""
        _, channels, height, width = image.pixels
        shown = f"an image of {channels} channels and {height} x {width} pixels"
        if channels != self.channels:
            raise ValueError(f"{shown}: this model takes {self.channels} channels")
        grids = [(-(-height // self.patch_size), -(-width // self.patch_size))]
        for _ in self.stages[1:]:
            rows, columns = grids[-1]
            grids.append((-(-rows // 2), -(-columns // 2)))
        if min(grids[-1]) < self.window:
            raise ValueError(
                f"{shown}: {grids[-1][0]} x {grids[-1][1]} tokens in the last stage are smaller "
                f"than a window of {self.window}"
            )
        return grids

    def tokens(self, image: ImageShape) -> int:
        rows, columns = self.grids(image)[0]
        return image.pixels[0] * rows * columns

    def rows(self, image: ImageShape) -> int:
        rows, columns = self.grids(image)[-1]
        return image.pixels[0] * rows * columns

    def place(self, layer: int) -> tuple[int, int]:
        """Stage of a layer, and its number therein."""
        for number, stage in enumerate(self.stages):
            if layer < stage.layers:
                return number, layer
            layer -= stage.layers
        raise ValueError(f"there is no layer {layer} behind the last one")

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        stored = super().checkpoint_names(path)
        if re.match(r"layers\.\d+\.merge\.", path):
            return tuple(re.sub(LAYER, self._merging, name) for name in stored)
        return tuple(re.sub(LAYER, self._block, name) for name in stored)

    def _block(self, match: re.Match[str]) -> str:
        stage, number = self.place(int(match[1]))
        return f"encoder.layers.{stage}.blocks.{number}."

    def _merging(self, match: re.Match[str]) -> str:
        """Stored with the stage whose tokens are merged."""
        return f"encoder.layers.{self.place(int(match[1]))[0] - 1}."

    def check(self, model: str) -> None:
        super().check(model)
        sizes = {stage.size % stage.heads or stage.size // stage.heads for stage in self.stages}
        if sizes != {self.head_dim}:
            raise CheckpointError(
                f"{model}: heads of its stages have {sorted(sizes)} features; one size is supported"
            )
        if self.window < 2:
            raise CheckpointError(f"{model}: window_size={self.window}: at least 2 is needed")


def swin(config: Mapping[str, Any], final_norm: bool = True) -> SwinHalf:
    """Of an encoder's own settings. Raises UnsupportedModelError for learned positions, which
    transformers cannot compute either."""
    if config.get("use_absolute_embeddings"):
        raise UnsupportedModelError("use_absolute_embeddings=true is not supported")
    width, depths, heads = config["embed_dim"], config["depths"], config["num_heads"]
    stages = tuple(
        SwinStage(width * 2**i, layers, count, int(config.get("mlp_ratio", 4.0) * width * 2**i))
        for i, (layers, count) in enumerate(zip(depths, heads, strict=True))
    )
    first, last = stages[0], stages[-1]
    height, width = pair(config["image_size"])
    patch = square(config["patch_size"])
    shrunk = patch * 2 ** (len(stages) - 1)
    return SwinHalf(
        hidden_size=last.size,
        num_layers=sum(depths),
        num_heads=first.heads,
        num_kv_heads=first.heads,
        head_dim=first.size // first.heads,
        attention_scale=(first.size // first.heads) ** -0.5,
        ffn_size=first.ffn_size,
        activation=config.get("hidden_act", "gelu"),
        norm_eps=config.get("layer_norm_eps", 1e-5),
        channels=config.get("num_channels", 3),
        patch_size=patch,
        image_size=(height, width),
        max_positions=-(-height // shrunk) * -(-width // shrunk),
        naming="swin",
        stages=stages,
        window=config["window_size"],
        qkv_bias=bool(config.get("qkv_bias", True)),
        final_norm=final_norm,
        pooling="mean",
    )
