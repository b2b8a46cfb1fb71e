"""Pictures as text, for terminals with 24-bit colors."""

from PIL import Image


def as_text(picture: Image.Image, columns: int = 44) -> str:
    """Each character shows two pixels, one above the other: the upper one as its own color, the
    lower one as that behind it."""
    rows = max(1, round(columns * picture.height / picture.width / 2))
    small = picture.convert("RGB").resize((columns, 2 * rows))
    lines = []
    for row in range(rows):
        pixels = []
        for column in range(columns):
            upper, lower = (small.getpixel((column, 2 * row + half)) for half in (0, 1))
            pixels.append(f"\033[38;2;{_color(upper)};48;2;{_color(lower)}m▀")
        lines.append("".join(pixels) + "\033[0m")
    return "\n".join(lines)


def _color(pixel: object) -> str:
    assert isinstance(pixel, tuple)
    return ";".join(map(str, pixel))
