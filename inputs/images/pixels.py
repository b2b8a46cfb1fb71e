"""An image as it travels to an encoder: one array of numbers that says its own sizes."""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from antiphon.families.image_halves import ImageShape
from antiphon.inputs.images.rendering import CHANNELS, Rendering

DIMENSIONS, SIZES = 4, 2
HEADER = DIMENSIONS + SIZES + 1  # whole numbers below 2^24, which float32 holds exactly
NO_TEXT = np.zeros(0, np.int64)
FLOAT = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Pixels:
    """`values`: float32 of the shape `shape.pixels`, as the checkpoint's image processor made them;
    see `ImageShape`. `text` [n] int64: ids of what is asked about it, for encoders that read both
    at once. `rendering`: how the encoder's device makes values of this shape, where `values` is the
    picture itself: uint8 [height, width, channels]."""

    shape: ImageShape
    values: np.ndarray
    text: np.ndarray = field(default_factory=lambda: NO_TEXT)
    rendering: Rendering | None = None

    def packed(self) -> np.ndarray:
        """float32 [n]: the sizes, the values, then the text's ids, which are below 2^24 too. Of a
        picture: uint8 [n]: the bytes of its sizes, of the picture's and of the other numbers, then
        its own."""
        header = np.array([*self.shape.pixels, *self.shape.size, len(self.text)], np.float32)
        text = self.text.astype(np.float32)
        if self.rendering is None:
            values = np.ravel(self.values).astype(np.float32, copy=False)
            return np.concatenate([header, values, text])
        rendering, size = self.rendering.numbers(), self.values.shape[:2]
        begin = np.array([*size, len(rendering)], np.float32)
        numbers = np.concatenate([header, begin, rendering, text])
        return np.concatenate([numbers.view(np.uint8), np.ravel(self.values)])

    @classmethod
    def unpacked(cls, array: np.ndarray) -> "Pixels":
        """Of what `packed` gives; its values are a view. Raises ValueError for anything else."""
        if array.dtype == np.uint8:
            return cls._of_picture(array)
        shape, words = _shape(array)
        end = HEADER + prod(shape.pixels)
        if len(array) != end + words:
            raise ValueError(
                f"{len(array) - HEADER} numbers are no image of {shape.pixels} with a text of "
                f"{words}"
            )
        values = array[HEADER:end].reshape(shape.pixels)
        return cls(shape, values, array[end:].astype(np.int64))

    @classmethod
    def _of_picture(cls, array: np.ndarray) -> "Pixels":
        most = len(array) // FLOAT.itemsize * FLOAT.itemsize
        numbers = np.frombuffer(array[: min(most, FLOAT.itemsize * (HEADER + 3))], np.float32)
        shape, words = _shape(numbers)
        height, width, count = (int(number) for number in numbers[HEADER:])
        begin = HEADER + len(numbers[HEADER:])
        end = FLOAT.itemsize * (begin + count + words)
        if len(array) != end + height * width * CHANNELS:
            raise ValueError(
                f"{len(array) - end} bytes are no picture of {height} x {width} pixels"
            )
        numbers = np.frombuffer(array[:end], np.float32)[begin:]
        picture = array[end:].reshape(height, width, CHANNELS)
        text = numbers[count:].astype(np.int64)
        return cls(shape, picture, text, Rendering.of_numbers(numbers[:count]))


def is_smaller(picture: Pixels) -> bool:
    """Whether it has no more bytes than what its `rendering` makes of it."""
    return picture.values.nbytes <= FLOAT.itemsize * prod(picture.shape.pixels)


def _shape(array: np.ndarray) -> tuple[ImageShape, int]:
    """With which `array` begins, and the length of its text. Raises ValueError."""
    header = array[:HEADER].tolist()
    sizes = [int(number) for number in header if np.isfinite(number)]
    if array.ndim != 1 or len(sizes) != HEADER or sizes != header or min(sizes) < 0:
        raise ValueError(f"an array of shape {array.shape} does not begin with an image's sizes")
    frames, rows, columns, features, height, width, words = sizes
    pixels = (frames, rows, columns, features)
    if not prod(pixels):
        raise ValueError(f"there is no image of {pixels}")
    return ImageShape(pixels, (height, width)), words
