"""Random images, as callers have them and as encoders take them."""

import itertools
from typing import Any

import numpy as np

from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.inputs.images.pixels import Pixels

SEED = 17
VARIETY = 256  # windows down and across a picture, before one repeats: its square
TEXT_TOKENS, LEAST_ID, MOST_ID = 32, 3, 10_000  # of a prompt's text

_serials = itertools.count(1)


class ImageRequests:
    """Prompts of so many square images of noise between a few words, that never repeat."""

    def __init__(self, placeholder_id: int, side: int, images: int) -> None:
        self._placeholder_id, self._side, self._images = placeholder_id, side, images
        self._rng = np.random.default_rng(SEED)
        most = side + VARIETY
        self._noise = self._rng.integers(0, 256, (most, most, 3), np.uint8)

    def prompt(self, side: float) -> dict[str, Any]:
        ids = self._rng.integers(LEAST_ID, MOST_ID, TEXT_TOKENS).tolist()
        images = [self._draw(int(side)) for _ in range(self._images)]
        for number in range(self._images):
            ids.insert(2 * number + 1, self._placeholder_id)  # words stand between them
        return {"prompt_token_ids": ids, "multi_modal_data": {"image": images}}

    def _draw(self, side: int) -> Any:
        from PIL import Image

        row, column = divmod(next(_serials) % VARIETY**2, VARIETY)
        window = self._noise[row : row + side, column : column + side]
        return Image.fromarray(np.ascontiguousarray(window))


def random_images(half: ImageHalf, batch: int, height: int, width: int) -> list[np.ndarray]:
    """Packed `Pixels` of images of this size, as the processor of `half` would make them."""
    shape = shape_of(half, height, width)
    values = np.random.default_rng(SEED).standard_normal(shape.pixels, np.float32)
    return [Pixels(shape, values).packed() for _ in range(batch)]


def shape_of(half: ImageHalf, height: int, width: int) -> ImageShape:
    if isinstance(half, QwenVisionHalf):
        rows, columns = height // half.patch_size, width // half.patch_size
        return ImageShape((1, rows, columns, half.patch_features))
    return ImageShape((1, half.channels, height, width), (height, width))
