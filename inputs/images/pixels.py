"""An image as it travels to an encoder: one array of numbers that says its own sizes."""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from antiphon.families.image_halves import ImageShape

DIMENSIONS, SIZES = 4, 2
HEADER = DIMENSIONS + SIZES + 1  # whole numbers below 2^24, which float32 holds exactly
NO_TEXT = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Pixels:
    """`values`: float32 of the shape `shape.pixels`, as the checkpoint's image processor made them;
    see `ImageShape`. `text` [n] int64: ids of what is asked about it, for encoders that read both
    at once."""

    shape: ImageShape
    values: np.ndarray
    text: np.ndarray = field(default_factory=lambda: NO_TEXT)

    def packed(self) -> np.ndarray:
        """float32 [n]: the sizes, the values, then the text's ids, which are below 2^24 too."""
        header = np.array([*self.shape.pixels, *self.shape.size, len(self.text)], np.float32)
        values = np.ravel(self.values).astype(np.float32, copy=False)
        return np.concatenate([header, values, self.text.astype(np.float32)])

    @classmethod
    def unpacked(cls, array: np.ndarray) -> "Pixels":
        """Of what `packed` gives; its values are a view. Raises ValueError for anything else."""
        header = array[:HEADER].tolist()
        sizes = [int(number) for number in header if np.isfinite(number)]
        if array.ndim != 1 or len(sizes) != HEADER or sizes != header or min(sizes) < 0:
            raise ValueError(
                f"an array of shape {array.shape} does not begin with an image's sizes"
            )
        frames, rows, columns, features, height, width, words = sizes
        pixels = (frames, rows, columns, features)
        end = HEADER + prod(pixels)
        if len(array) != end + words or not prod(pixels):
            raise ValueError(
                f"{len(array) - HEADER} numbers are no image of {pixels} with a text of {words}"
            )
        shape, values = ImageShape(pixels, (height, width)), array[HEADER:end].reshape(pixels)
        return cls(shape, values, array[end:].astype(np.int64))
