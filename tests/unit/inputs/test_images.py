"""Images of every form and kind of file: the same colors, or an ImageError with the numbers."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from antiphon.config.errors import ImageError
from antiphon.inputs.images.forms import read_image
from antiphon.inputs.images.limits import MAX_PIXELS

RED, GREEN = (200, 30, 40), (20, 180, 60)


def drawn(mode: str = "RGB") -> Image.Image:
    """Red at the left, green at the right; 6 x 4."""
    image = Image.new("RGB", (6, 4), RED)
    image.paste(GREEN, (3, 0, 6, 4))
    return image.convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = file_of(drawn())
COLORS = np.asarray(drawn())


@pytest.mark.parametrize(
    "make",
    [
        drawn,
        lambda: PNG,
        lambda: bytearray(PNG),
        lambda: memoryview(PNG),
        lambda: io.BytesIO(PNG),
        lambda: "data:image/png;base64," + base64.b64encode(PNG).decode(),
        lambda: "Data:image/PNG;BASE64," + base64.b64encode(PNG).decode(),
        lambda: {"bytes": PNG, "path": None},
        lambda: COLORS,
        lambda: COLORS.tolist(),
        lambda: COLORS / 255,
        lambda: COLORS.astype(np.uint16) * 257,
        lambda: COLORS.astype(np.int64),
        lambda: np.moveaxis(COLORS, -1, 0),
        lambda: torch.from_numpy(COLORS.copy()).permute(2, 0, 1),
        lambda: torch.from_numpy(COLORS / 255).to(torch.float32),
    ],
)
def test_forms(make: Callable[[], Any]) -> None:
    image = read_image(make())
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), COLORS)


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(read_image(path)), COLORS)


def test_an_image_turned_by_its_metadata_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image = read_image(file_of(drawn(), exif=exif))
    assert image.size == (4, 6)
    assert image.getpixel((0, 0)) == RED
    assert image.getpixel((0, 5)) == GREEN


def test_what_is_transparent_is_white() -> None:
    layered = drawn("RGBA")
    layered.putpixel((0, 0), (0, 0, 0, 0))
    layered.putpixel((1, 0), (0, 0, 0, 128))
    image = read_image(file_of(layered))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 0)) == (127, 127, 127)
    assert image.getpixel((5, 0)) == GREEN
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putpixel((1, 0), 1)
    image = read_image(file_of(palette, transparency=0))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (50, 60, 70)]


def test_colors_of_print_and_of_16_bits() -> None:
    near = np.abs(np.asarray(read_image(file_of(drawn("CMYK"), "TIFF"))).astype(int) - COLORS)
    assert near.max() <= 3
    gray = np.array([[0, 257 * 77, 65_535]], np.uint16)
    image = read_image(file_of(Image.fromarray(gray)))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in (0, 77, 255)]


def test_a_see_through_value_of_16_bits() -> None:
    gray = Image.fromarray(np.array([[500, 501, 0]], np.uint16))
    image = read_image(file_of(gray, transparency=500))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [255, 1, 0]  # type: ignore[index]


@pytest.mark.parametrize("white", [1.0, 255.0, 65_535.0])
def test_gray_floats(white: float) -> None:
    gray = np.array([[0, 0.2 * white, white]], np.float32)
    image = read_image(file_of(Image.fromarray(gray), "TIFF"))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 51, 255]  # type: ignore[index]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_broken_metadata_turn_nothing(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = file_of(drawn(), kind, exif=b"Exif\0\0no exif", **options)
    assert np.array_equal(np.asarray(read_image(content)), COLORS)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), color) for color in (RED, GREEN)]
    content = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(np.array(read_image(content).getpixel((1, 1))) - RED).max() <= 3


def test_one_pixel() -> None:
    assert read_image(file_of(Image.new("RGB", (1, 1), RED))).getpixel((0, 0)) == RED
    assert read_image(np.full((1, 1), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)


def test_no_program_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript."""
    runs: list[Any] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **_: runs.append(given))
    box = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageError, match="not readable as an image"):
        read_image(box)
    assert not runs


@pytest.mark.parametrize("make", [lambda path: PNG, io.BytesIO, Path, str], ids=range(4))
def test_the_size_of_a_file(
    make: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)

    def read() -> Image.Image:
        return read_image(make(PNG if make is io.BytesIO else tmp_path / "a.png"))

    monkeypatch.setattr("antiphon.inputs.images.forms.MAX_FILE_BYTES", len(PNG))
    assert read().size == (6, 4)
    monkeypatch.setattr("antiphon.inputs.images.forms.MAX_FILE_BYTES", len(PNG) - 1)
    with pytest.raises(ImageError, match=f"over the limit of {len(PNG) - 1}"):
        read()


@pytest.mark.parametrize("make", [drawn, lambda: PNG, lambda: COLORS])
def test_the_number_of_pixels(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("forms", "arrays"):
        monkeypatch.setattr(f"antiphon.inputs.images.{module}.MAX_PIXELS", 24)
    assert read_image(make()).size == (6, 4)
    for module in ("forms", "arrays"):
        monkeypatch.setattr(f"antiphon.inputs.images.{module}.MAX_PIXELS", 23)
    with pytest.raises(ImageError, match="6 x 4 pixels are over the limit of 23"):
        read_image(make())


def bomb() -> bytes:
    """A small file that says that it holds 100 000 x 100 000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (PNG[:-30], "broken or cut off"),
        (b"", "not readable as an image"),
        (b"plain text", "not readable as an image"),
        (bomb(), f"over the limit of {MAX_PIXELS} pixels"),
        (np.broadcast_to(np.uint8(0), (10_000, 10_000)), f"over the limit of {MAX_PIXELS}"),
        ("/no/such/file.png", "cannot be read"),
        ("a" * 5000, "cannot be read"),
        ("https://example.com/a.png", "addresses are not fetched"),
        ("HTTPS://example.com/a.png", "addresses are not fetched"),
        ("file:///etc/passwd", "give the path"),
        ("FILE:///etc/passwd", "give the path"),
        ("data:image/png;base64,???", "no base64"),
        ("data:image/png", "data:image/png;base64,"),
        ({"url": "x"}, "must hold 'bytes' or 'path'"),
        (io.StringIO("text"), "mode 'rb'"),
        (np.zeros((5, 5, 7), np.uint8), r"shape \[5, 5, 7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]"),
        (COLORS.astype(float), "within 0 and 1"),
        (COLORS.astype(int) - 100, "within 0 and 255"),
        (np.full((2, 2), np.nan), "within 0 and 1"),
        (np.array([["a"]]), "give whole numbers or floats"),
        (3, "must be a PIL image"),
        (None, "must be a PIL image"),
        ([[1, 2], [3]], "image of type list"),
    ],
    ids=range(24),
)
def test_what_is_no_image_is_refused_with_numbers(source: Any, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(source)
