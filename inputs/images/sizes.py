"""Sizes of pictures and videos, known before they are decoded."""

import base64
import io
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.addresses import Content, is_fetched
from antiphon.inputs.images.arrays import CHANNELS
from antiphon.inputs.images.forms import ImageInput, formats
from antiphon.inputs.images.pixels import FLOAT
from antiphon.inputs.images.rendering import CHANNELS as COLORS
from antiphon.inputs.images.resizing import Size
from antiphon.inputs.media_files import kept_place

HEAD = 4 * (64 << 10)  # characters of base64 in which an image's size mostly is


def size_of(source: ImageInput) -> Size | None:
    """Height and width of an image in any form that is read; None where they can't be known before
    it is read. May raise anything for what is no image."""
    if isinstance(source, Mapping):
        key = next(key for key in ("bytes", "path") if source.get(key) is not None)
        return size_of(source[key])
    if is_fetched(source):
        return None
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _of_file(io.BytesIO(source))
    if hasattr(source, "getpixel"):  # PIL's
        return source.height, source.width
    if hasattr(source, "shape"):
        return _of_shape(tuple(source.shape))
    if isinstance(source, list):
        return len(source), len(source[0])
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _of_data(source.partition(",")[2])
    if isinstance(source, (str, os.PathLike)):
        return _of_file(Path(source).expanduser())
    if isinstance(source, Content):
        return _of_file(io.BytesIO(source.content))
    if not source.seekable():
        return None
    with kept_place(source):
        return _of_file(source)


def _of_shape(shape: tuple[int, ...]) -> Size:
    """As `read_array` takes it."""
    channels_first = len(shape) == 3 and shape[-1] not in CHANNELS and shape[0] in CHANNELS
    height, width = shape[1:] if channels_first else shape[:2]
    return height, width


def _of_data(text: str) -> Size:
    """Of base64."""
    try:
        return _of_file(io.BytesIO(base64.b64decode(text[:HEAD])))
    except Exception:  # more stands before the size: a preview, a profile of colors
        return _of_file(io.BytesIO(base64.b64decode(text)))


def _of_file(file: Any) -> Size:
    from PIL import Image  # not above: commands without images need no Pillow

    with Image.open(file, formats=formats()) as image:
        return image.height, image.width


def decoded_bytes(size: Size, frames: int = 1) -> int:
    """As 8-bit colors."""
    return COLORS * frames * prod(size)


def most_bytes(half: ImageHalf) -> int:
    """What becomes of the largest image or video that an encoder takes."""
    tile = half.usual_tile or half.smallest
    tiles = -(-half.max_positions // half.rows_of_tile(tile))
    return tiles * FLOAT.itemsize * prod(tile.pixels)
