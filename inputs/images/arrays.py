"""Images that callers have as arrays or tensors."""

from typing import Any

import numpy as np

from antiphon.config.errors import ImageError
from antiphon.inputs.images.limits import MAX_PIXELS

CHANNELS = (1, 3, 4)


def read_array(source: Any) -> np.ndarray:
    """uint8 [height, width, channels] of an array [height, width], [height, width, channels] or
    [channels, height, width]: whole numbers from 0 to 255 (16 bits: to 65535), or floats from 0 to
    1. Raises ImageError."""
    if hasattr(source, "detach"):  # a tensor, on any device
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    array = np.asarray(source)
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and shape[-1] not in CHANNELS and shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] not in CHANNELS or not array.size:
        raise ImageError(
            f"an image of shape {list(shape)}: give [height, width], [height, width, channels] or "
            "[channels, height, width], of 1, 3 or 4 channels"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"{array.shape[1]} x {array.shape[0]} pixels are over the limit of {MAX_PIXELS}"
        )
    return np.ascontiguousarray(_to_bytes(array))


def _to_bytes(array: np.ndarray) -> np.ndarray:
    kind = array.dtype
    if kind == np.uint8:
        return array
    if kind == np.bool_:
        return array.astype(np.uint8) * 255
    if kind.kind not in "uif":
        raise ImageError(f"an image of {kind} values: give whole numbers or floats")
    low, high = array.min(), array.max()
    most = 1 if kind.kind == "f" else 65_535 if kind == np.uint16 else 255
    if not (low >= 0 and high <= most):  # NaN fails too
        raise ImageError(
            f"an image of {kind} values from {low:g} to {high:g}: they must be within 0 and {most}"
        )
    if kind.kind == "f":
        return np.rint(array * 255).astype(np.uint8)
    return (array // 257 if kind == np.uint16 else array).astype(np.uint8)
