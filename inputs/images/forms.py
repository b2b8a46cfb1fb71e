"""Images in the forms that callers have them, and the one adapter to 8-bit colors."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphon.config.errors import ImageError
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.addresses import Content, content_of
from antiphon.inputs.images.arrays import read_array
from antiphon.inputs.images.limits import MAX_FILE_BYTES, MAX_PIXELS, NOTHING_FETCHED, Fetching

if TYPE_CHECKING:
    from PIL.Image import Image

# PIL's images, arrays and tensors (`read_array`), a path, the bytes of a file (bytes, bytearray,
# memoryview), an open file, a data URI, an http(s) address where such are fetched, or a row of
# Hugging Face's datasets ({"path", "bytes"}).
ImageInput = Any

WHITE = (255, 255, 255)  # lies behind what is transparent
FORMS = (
    "a PIL image, an array, a path, the bytes of a file, a file object, a data URI or an address"
)


def read_image(source: ImageInput, fetching: Fetching = NOTHING_FETCHED) -> "Image":
    """An image in any form, as PIL's image in RGB: the first of several frames, turned as its
    metadata say, transparent parts over white. Raises ImageError, whatever `source` is."""
    with foreign_errors_as(ImageError, f"an image of type {type(source).__name__}"):
        return _read(source, fetching)


def _read(source: ImageInput, fetching: Fetching) -> "Image":
    from PIL.Image import Image, fromarray  # not above: commands without images need no Pillow

    if isinstance(source, Image):
        _check_pixels(source, "the image")
        return _in_colors(source)
    if isinstance(source, str):
        return _read_text(source, fetching)
    if isinstance(source, Content):
        return _read_bytes(source.content, source.name)
    if isinstance(source, os.PathLike):
        return _read_path(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_bytes(bytes(source), f"{len(source)} bytes")
    if isinstance(source, Mapping):
        return _read_mapping(source, fetching)
    if hasattr(source, "__array__") or isinstance(source, list):
        array = read_array(source)
        return _in_colors(fromarray(array[..., 0] if array.shape[2] == 1 else array))
    if callable(getattr(source, "read", None)):
        content = source.read(MAX_FILE_BYTES + 1)
        if not isinstance(content, bytes):
            raise ImageError(f"read() gives {type(content).__name__}: open the file with mode 'rb'")
        return _read_bytes(content, f"{len(content)} bytes")
    raise ImageError(f"an image must be {FORMS}; not {type(source).__name__}")


def _read_text(text: str, fetching: Fetching) -> "Image":
    if (content := content_of(text, fetching, "image/png", ImageError)) is not None:
        return _read_bytes(content.content, content.name)
    return _read_path(Path(text).expanduser())


def _read_mapping(source: Mapping[Any, Any], fetching: Fetching) -> "Image":
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return _read(source[key], fetching)
    keys = ", ".join(repr(key) for key in list(source)[:10]) or "nothing"
    raise ImageError(f"a mapping must hold 'bytes' or 'path'; this one has {keys}")


def _read_path(path: Path) -> "Image":
    shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:60]}…"
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ImageError(f"{shown}: {size} bytes are over the limit of {MAX_FILE_BYTES}")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{shown}: cannot be read ({error.args[-1]})") from error
    return _read_bytes(content, shown)


def _read_bytes(content: bytes, name: str) -> "Image":
    from PIL import Image, UnidentifiedImageError

    if len(content) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: over the limit of {MAX_FILE_BYTES} bytes")
    try:
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            _check_pixels(image, name)
            image.load()
            return _in_colors(image)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not readable as an image ({len(content)} bytes)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: over the limit of {MAX_PIXELS} pixels ({error})") from None
    except (OSError, SyntaxError) as error:  # PIL's words for a broken file
        raise ImageError(f"{name}: the image is broken or cut off ({error})") from error


def formats() -> list[str]:
    """All that Pillow reads, but for EPS: that is a program, which Ghostscript would run."""
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _check_pixels(image: "Image", name: str) -> None:
    """Before any of them is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width} x {height} pixels are over the limit of {MAX_PIXELS}: shrink it"
        )
    if not width or not height:
        raise ImageError(f"{name}: {width} x {height} pixels are no image")


def _in_colors(image: "Image") -> "Image":
    """RGB, turned upright; a copy, which no file lies behind."""
    from PIL import Image

    upright = _upright(image)
    if upright.mode[0] in "IF":  # more than 8 bits
        gray, see_through = np.asarray(upright), upright.info.get("transparency")
        upright = Image.fromarray(_in_8_bits(gray))
        if isinstance(see_through, int):  # one of the values, in all its bits
            upright.putalpha(Image.fromarray(np.where(gray == see_through, 0, 255).astype("u1")))
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        transparent = upright.convert("RGBA")
        behind = Image.new("RGBA", transparent.size, (*WHITE, 255))
        return Image.alpha_composite(behind, transparent).convert("RGB")
    return upright.convert("RGB")


def _upright(image: "Image") -> "Image":
    """Turned as its metadata say. A picture is none the worse for metadata that are broken: it is
    taken as it lies."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever their parser raises
        return image


def _in_8_bits(gray: np.ndarray) -> np.ndarray:
    """uint8 of gray values: floats from 0 to 1, to 255 or to 65,535, or whole numbers of 16
    bits."""
    low, high = gray.min(), gray.max()
    if not (low >= 0 and high <= 65_535):
        raise ImageError(f"gray values from {low:g} to {high:g} are no image of 16 bits")
    if gray.dtype.kind == "f":
        white = next(most for most in (1, 255, 65_535) if high <= most)
        return np.rint(gray * (255 / white)).astype(np.uint8)
    return (gray // 257).astype(np.uint8)
