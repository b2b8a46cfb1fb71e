"""From images to what an encoder takes, by the checkpoint's own image processor."""

import os
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from antiphon.config.errors import CheckpointError, ConfigurationError, ImageError
from antiphon.config.options import Resizing
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.families.mllama_half import MllamaVisionHalf
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.forms import ImageInput, read_image
from antiphon.inputs.images.limits import MAX_PIXELS, NOTHING_FETCHED, Fetching
from antiphon.inputs.images.pixels import FLOAT, NO_TEXT, Pixels, is_smaller
from antiphon.inputs.images.rendering import CHANNELS
from antiphon.inputs.images.sizes import decoded_bytes, most_bytes, size_of
from antiphon.inputs.images.views import Views
from antiphon.inputs.keys import content_key
from antiphon.inputs.prepared import EncoderInput

if TYPE_CHECKING:
    from PIL.Image import Image

# Pictures, in height and width, of which both kinds of processing are compared: each is reduced
# and enlarged along one axis at least, in either order.
TRIED = [(90, 40), (40, 120), (500, 300)]
MOST_LEVELS = 1.01  # of gray values; what is above 1 is rounding
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
        resizing: Resizing = "host",
    ) -> None:
        """`settings`: beside those of the checkpoint's own file. `processor`: transformers', in
        place of the checkpoint's. `resizing`: where it is done, as `ImageLimits` has it.

        Raises CheckpointError for a checkpoint without one, and ConfigurationError for `resizing`
        that is "device" and cannot be done there.
        """
        self.of_checkpoint = _of_checkpoint(folder) if processor is None else processor
        self._half, self._fetching, self._settings = half, fetching, settings
        self._always_there = resizing == "device"  # also pictures that then travel larger
        self._rules = None
        if not isinstance(half, MllamaVisionHalf):
            self._rules = Views.of(self.of_checkpoint, self._settings)
        self._views = self._views_on(resizing)
        on_device = "" if self._views is None else "|device"
        self._salt = f"{folder}|{self.of_checkpoint.to_dict()}{on_device}".encode()

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
        image = read_image(source, self._fetching)
        with foreign_errors_as(ImageError, f"an image of {image.width} x {image.height} pixels"):
            pixels = None if self._views is None else self._picture(image, alone, self._views)
            if pixels is None or not (self._always_there or is_smaller(pixels)):
                pixels = Pixels(*self._made(image, alone))
            rows = self._half.rows(pixels.shape) + len(text)
            pixels = replace(pixels, text=text)
        packed = pixels.packed()
        key = content_key(self._salt, "image", packed)
        return EncoderInput(key, "image", rows, packed, position)

    def expected_bytes(self, source: ImageInput, alone: bool = True) -> int:
        """An estimate of what `encoder_input` takes: the image as 8-bit colors, and what is made of
        it. Raises anything for what is no image."""
        size = size_of(source)
        if size is None:
            return CHANNELS * MAX_PIXELS + most_bytes(self._half)
        if prod(size) > MAX_PIXELS:
            return 0  # it will be refused
        picture = decoded_bytes(size)
        rendering = None if self._rules is None else self._rules.rendering(size, alone)
        if rendering is None:
            return picture + most_bytes(self._half)
        is_sent = self._views is not None and self._views.of_picture(size, alone) is not None
        made = FLOAT.itemsize * prod(rendering.shape)
        return picture + (min(made, picture) if is_sent and not self._always_there else made)

    def _made(self, image: "Image", alone: bool) -> tuple[ImageShape, np.ndarray]:
        """By transformers' processor."""
        from PIL.Image import new  # not above: commands without images need no Pillow

        images: list[Any] = [image]
        if self._half.tiled_alone and not alone:
            images = [[image, new("RGB", (1, 1))]]  # it does not look at the second one
        made = self.of_checkpoint(images=images, return_tensors="np", **self._settings)
        if isinstance(self._half, MllamaVisionHalf):
            return _arranged(made, self._half)
        return _arrays(made, (image.height, image.width))

    def _picture(self, image: "Image", alone: bool, views: Views) -> Pixels | None:
        """For the encoder's device to process; None for one that is processed here."""
        size = (image.height, image.width)
        if (rendering := views.of_picture(size, alone)) is None:
            return None
        shape = ImageShape(rendering.shape, size)
        return Pixels(shape, np.asarray(image), rendering=rendering)

    def _views_on(self, resizing: Resizing) -> Views | None:
        """None where pictures are resized here."""
        if resizing == "host":
            return None
        views, reason = self._rules, "the rules of its image processor are not known"
        if views is not None:
            reason = self._difference(views)
            if not reason:
                return views
        if resizing == "device":
            raise ConfigurationError(
                f"image_resizing='device' is not possible for this checkpoint: {reason}. Give "
                "'host' or 'auto'"
            )
        return None

    def _difference(self, views: Views) -> str:
        """Of what an encoder's device makes of pictures, and transformers' processor; "": none of
        more than a gray level."""
        for number, (height, width) in enumerate(TRIED):
            noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
            image = read_image(noise)
            pixels = self._picture(image, True, views)
            if pixels is None or pixels.rendering is None:
                return f"pictures of {width} x {height} pixels have no rule"
            shape, expected = self._made(image, True)
            if shape != pixels.shape:
                return f"{width} x {height} pixels become {shape.pixels}, not {pixels.shape.pixels}"
            made = pixels.rendering.values(torch.tensor(pixels.values)).numpy()
            levels = pixels.rendering.levels(np.abs(made - expected).reshape(shape.pixels)).max()
            if not levels <= MOST_LEVELS:
                return f"a gray value would differ by {levels:.1f} levels"
        return ""


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
