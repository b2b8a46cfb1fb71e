"""From images to what an encoder takes, by the checkpoint's own image processor."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from antiphon.config.errors import CheckpointError, ImageError
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.families.mllama_half import MllamaVisionHalf
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.forms import ImageInput, read_image
from antiphon.inputs.images.limits import NOTHING_FETCHED, Fetching
from antiphon.inputs.images.pixels import NO_TEXT, Pixels
from antiphon.inputs.prepared import EncoderInput

CONFIGS = ("preprocessor_config.json", "processor_config.json")


class ImageProcessor:
    """Methods may run in several threads."""

    def __init__(
        self,
        folder: Path,
        half: ImageHalf,
        fetching: Fetching = NOTHING_FETCHED,
        settings: Mapping[str, Any] = MappingProxyType({}),
        processor: Any = None,
    ) -> None:
        """`settings`: beside those of the checkpoint's own file. `processor`: transformers', in
        place of the checkpoint's. Raises CheckpointError for a checkpoint without one."""
        self.of_checkpoint = _of_checkpoint(folder) if processor is None else processor
        self._half, self._fetching, self._settings = half, fetching, settings
        self._salt = f"{folder}|{self.of_checkpoint.to_dict()}".encode()

    def encoder_input(
        self,
        source: ImageInput,
        position: int | None = None,
        alone: bool = True,
        text: np.ndarray = NO_TEXT,
    ) -> EncoderInput:
        """An image in any form, ready for the encoder. `position`: as `EncoderInput` has it.
        `alone`: the only one of its prompt. `text` [n] int: ids that the encoder reads behind it.

        Raises ImageError for an image that cannot be read, or that the model can't take.
        """
        from PIL import Image  # not above: commands without images need no Pillow

        image = read_image(source, self._fetching)
        with foreign_errors_as(ImageError, f"an image of {image.width} x {image.height} pixels"):
            images: list[Any] = [image]
            if self._half.tiled_alone and not alone:
                images = [[image, Image.new("RGB", (1, 1))]]  # it does not look at the second one
            made = self.of_checkpoint(images=images, return_tensors="np", **self._settings)
            if isinstance(self._half, MllamaVisionHalf):
                shape, values = _arranged(made, self._half)
            else:
                shape, values = _arrays(made, (image.height, image.width))
            pixels = Pixels(shape, values, text)
            rows = self._half.rows(pixels.shape) + len(text)
        packed = pixels.packed()
        digest = hashlib.sha256(self._salt)
        digest.update(packed.data)
        return EncoderInput(digest.hexdigest()[:32], "image", rows, packed, position)


def _of_checkpoint(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    if not any(os.path.exists(folder / name) for name in CONFIGS):
        raise CheckpointError(f"{folder} has no {CONFIGS[0]}: it says how to read images")
    try:
        return AutoImageProcessor.from_pretrained(folder)
    except Exception as error:  # whatever a broken file makes it raise
        raise CheckpointError(f"{folder / CONFIGS[0]} cannot be used: {error}") from error


def _arrays(made: Any, size: tuple[int, int]) -> tuple[ImageShape, np.ndarray]:
    """What a processor made of one image: tiles, or patches with the grid that they form."""
    values = np.asarray(made["pixel_values"], np.float32)
    if (grids := made.get("image_grid_thw")) is not None:
        frames, rows, columns = (int(number) for number in np.asarray(grids)[0])
        values = values.reshape(frames, rows, columns, -1)
    elif values.ndim == 5:  # [images, tiles, channels, height, width]
        values = values[0]
    first, second, third, fourth = values.shape
    return ImageShape((first, second, third, fourth), size), values


def _arranged(made: Any, half: MllamaVisionHalf) -> tuple[ImageShape, np.ndarray]:
    """What a processor made of one image: the tiles that it has of all that there may be, and the
    number of their arrangement."""
    size = half.arrangements[int(np.asarray(made["aspect_ratio_ids"]).reshape(-1)[0]) - 1]
    tiles = np.asarray(made["pixel_values"], np.float32)[0, 0, : size[0] * size[1]]
    first, second, third, fourth = tiles.shape
    return ImageShape((first, second, third, fourth), size), tiles
