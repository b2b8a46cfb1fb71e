"""Sizes of images and patches, as config.json states them."""

from typing import Any

from antiphon.config.errors import UnsupportedModelError


def pair(size: Any) -> tuple[int, int]:
    """Height and width, which are one number where they are equal."""
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


def square(size: Any) -> int:
    """The side of a patch. Raises UnsupportedModelError for one that is not square."""
    height, width = pair(size)
    if height != width:
        raise UnsupportedModelError(
            f"patches of {height} x {width} pixels are not supported, only square ones"
        )
    return height
