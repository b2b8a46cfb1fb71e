"""Images on the device, as the image frontends pack them."""

from dataclasses import dataclass, field
from itertools import groupby
from math import prod

import numpy as np
import torch

from antiphon.families.image_halves import ImageShape


@dataclass(frozen=True)
class ImageBatch:
    """Images packed one behind the other, on the device."""

    lengths: np.ndarray  # [images] int, in tokens
    shapes: tuple[ImageShape, ...]
    values: torch.Tensor  # float32 [all numbers]

    def groups(self) -> list[torch.Tensor]:
        """Images next to each other whose sizes are equal but for the first one, as one array."""
        groups, begin = [], 0
        for sizes, shapes in groupby(self.shapes, lambda shape: shape.pixels[1:]):
            first = sum(shape.pixels[0] for shape in shapes)
            end = begin + first * prod(sizes)
            groups.append(self.values[begin:end].view(first, *sizes))
            begin = end
        return groups


@dataclass(frozen=True)
class ImageTextBatch(ImageBatch):
    """`texts`: ids [words] int64 of each image's text, on the host; `lengths` count them, too."""

    texts: tuple[np.ndarray, ...] = field(default=())
