"""Description of the vision encoders of Qwen2-VL and Qwen2.5-VL; see `halves`."""

from dataclasses import dataclass
from typing import ClassVar

from antiphon.families.image_halves import ImageHalf, ImageShape, Projector


@dataclass(frozen=True, kw_only=True)
class QwenVisionHalf(ImageHalf):
    """The vision encoders of Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025): patches
    over two frames, rotary positions by row and column, neighbouring patches merged at the end.

    Their processor orders patches by the groups that are merged.
    """

    structure: ClassVar[str] = "qwen_vision"

    projector: Projector
    frames: int  # of a patch
    rotary_theta: float
    gated: bool  # a gated feed-forward layer (Qwen2.5)
    window: int | None = None  # rows and columns of merged patches of a window; None: there is none
    full_layers: tuple[int, ...] = ()  # numbers of the layers without windows, where others have

    @property
    def feed_forward_matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def last_norm(self) -> str:
        return "norm"

    @property
    def patch_features(self) -> int:
        return self.channels * self.frames * self.patch_size**2

    @property
    def smallest(self) -> ImageShape:
        merge = self.projector.merge
        return ImageShape((1, merge, merge, self.patch_features))

    def tokens(self, image: ImageShape) -> int:
        frames, rows, columns, features = image.pixels
        merge = self.projector.merge
        if features != self.patch_features or rows % merge or columns % merge:
            raise ValueError(
                f"{rows} x {columns} patches of {features} numbers: this model takes patches of "
                f"{self.patch_features}, and multiples of {merge} rows and columns"
            )
        return frames * rows * columns

    def rows(self, image: ImageShape) -> int:
        return self.tokens(image) // self.projector.merge**2

    def windowed(self, layer: int) -> bool:
        """Whether layer number `layer` attends within windows."""
        return self.window is not None and layer not in self.full_layers
