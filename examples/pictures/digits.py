"""Pictures of numbers, drawn: one to six digits of varying faces, sizes, places, slants and
colors, with noise.

Both faces come with Pillow, so a picture is the same on every machine.
"""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_DIGITS = 6
BOLDEST = 3  # pixels around the lines of a glyph of GLYPH_SIZE
GLYPH_SIZE = 48
PIXELS = -1  # in place of how bold: the face that is made of pixels
Box = tuple[int, int, int, int]  # left, top, right and bottom, in pixels


@dataclass(frozen=True)
class Drawing:
    """`boxes`: where each digit of `number` is."""

    picture: Image.Image
    number: str
    boxes: tuple[Box, ...]


def draw_number(rng: random.Random, most_digits: int = MOST_DIGITS) -> Drawing:
    """A random number; every count of digits is equally likely."""
    count = rng.randint(1, most_digits)
    number = str(rng.randrange(10 ** (count - 1) if count > 1 else 0, 10**count))
    return draw_digits(rng, number)


def draw_digits(rng: random.Random, number: str) -> Drawing:
    """`number` in dark on a light ground of random size."""
    width, height = rng.randint(90, 160), rng.randint(30, 52)
    face = rng.choice((PIXELS, *range(BOLDEST + 1)))
    shear, angle = rng.uniform(-0.2, 0.2), rng.uniform(-4, 4)
    glyphs = [_slanted(glyph(digit, face), shear, angle) for digit in number]
    gap = rng.uniform(0.05, 0.2) * max(glyph.height for glyph in glyphs)
    length = sum(glyph.width for glyph in glyphs) + gap * (len(glyphs) - 1)
    # As large as the picture allows, or smaller.
    fit = min(0.94 * width / length, 0.9 * height / max(glyph.height for glyph in glyphs))
    scale = fit * rng.uniform(0.75, 1.0)
    left = rng.uniform(0, width - length * scale)
    top = rng.uniform(0, height - max(glyph.height for glyph in glyphs) * scale)
    picture = Image.new("RGB", (width, height), _color(rng, 160, 255))
    ink, boxes = _color(rng, 0, 90), []
    for mask in glyphs:
        small = mask.resize((round(mask.width * scale) or 1, round(mask.height * scale) or 1))
        place = int(left), int(top)
        picture.paste(ink, place, small)
        boxes.append((*place, place[0] + small.width, place[1] + small.height))
        left += (mask.width + gap) * scale
    return Drawing(_noisy(rng, picture), number, tuple(boxes))


@lru_cache
def glyph(digit: str, face: int) -> Image.Image:
    """A digit in white on black, cut to its edges. `face`: how bold, or PIXELS."""
    mask = Image.new("L", (2 * GLYPH_SIZE, 2 * GLYPH_SIZE))
    draw = ImageDraw.Draw(mask)
    if face == PIXELS:
        draw.text((0, 0), digit, fill=255, font=ImageFont.load_default_imagefont())
        mask = mask.crop(mask.getbbox())
        return mask.resize((4 * mask.width, 4 * mask.height), Image.Resampling.BICUBIC)
    font = ImageFont.load_default(GLYPH_SIZE)
    draw.text((GLYPH_SIZE // 2, GLYPH_SIZE // 2), digit, 255, font, stroke_width=face)
    return mask.crop(mask.getbbox())


def _slanted(mask: Image.Image, shear: float, angle: float) -> Image.Image:
    """Sheared by `shear` columns a row, then turned by `angle` degrees."""
    wider = mask.width + round(abs(shear) * mask.height)
    matrix = (1.0, shear, min(0.0, -shear * mask.height), 0.0, 1.0, 0.0)
    sheared = mask.transform(
        (wider, mask.height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    turned = sheared.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return turned.crop(turned.getbbox())


def _color(rng: random.Random, least: int, most: int) -> tuple[int, int, int]:
    return rng.randint(least, most), rng.randint(least, most), rng.randint(least, most)


def _noisy(rng: random.Random, picture: Image.Image) -> Image.Image:
    """With normal noise of up to 12 grey levels."""
    strength = rng.uniform(0, 12)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, strength, (*picture.size[::-1], 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
