"""An image as it travels to an encoder: one array of numbers that says its own sizes."""

from dataclasses import dataclass
from math import prod

import numpy as np

from antiphon.families.image_halves import ImageShape

DIMENSIONS, SIZES = 4, 2
HEADER = DIMENSIONS + SIZES  # whole numbers below 2^24, which float32 holds exactly


@dataclass(frozen=True, eq=False)
class Pixels:
    """`values`: float32 of the shape `shape.pixels`, as the checkpoint's image processor made them;
    see `ImageShape`."""

    shape: ImageShape
    values: np.ndarray

    def packed(self) -> np.ndarray:
        """float32 [n]: the sizes, then the values."""
        header = np.array([*self.shape.pixels, *self.shape.size], np.float32)
        return np.concatenate([header, np.ravel(self.values).astype(np.float32, copy=False)])

    @classmethod
    def unpacked(cls, array: np.ndarray) -> "Pixels":
        """Of what `packed` gives; its values are a view. Raises ValueError for anything else."""
        header = array[:HEADER].tolist()
        sizes = [int(number) for number in header if np.isfinite(number)]
        if array.ndim != 1 or len(sizes) != HEADER or sizes != header or min(sizes) < 0:
            raise ValueError(
                f"an array of shape {array.shape} does not begin with an image's sizes"
            )
        frames, rows, columns, features, height, width = sizes
        pixels = (frames, rows, columns, features)
        if len(array) != HEADER + prod(pixels) or not prod(pixels):
            raise ValueError(f"{len(array) - HEADER} numbers are no image of {pixels}")
        return cls(ImageShape(pixels, (height, width)), array[HEADER:].reshape(pixels))
