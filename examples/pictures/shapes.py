"""Random scenes: up to four colored shapes that do not touch, and the picture of each scene."""

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
KINDS = ("circle", "square", "triangle")
COLORS = {
    "red": (215, 40, 40),
    "green": (40, 160, 70),
    "blue": (45, 85, 220),
    "yellow": (240, 200, 30),
}
MOST = 4  # shapes of a scene
ATTEMPTS = 60  # to find a free place for a shape


@dataclass(frozen=True)
class Shape:
    """`x`, `y`, `radius`: in sides of the picture's shorter edge; `turn` in degrees."""

    kind: str
    color: str
    x: float
    y: float
    radius: float
    turn: float


@dataclass(frozen=True)
class Scene:
    """`width`, `height`: in pixels."""

    width: int
    height: int
    shapes: tuple[Shape, ...]

    def count(self, kind: str | None = None, color: str | None = None) -> int:
        """How many shapes are of this kind and color, where given."""
        return sum(
            kind in (None, shape.kind) and color in (None, shape.color) for shape in self.shapes
        )


def random_scene(rng: random.Random) -> Scene:
    """Of few kinds and colors, so that several shapes are alike."""
    width, height = (rng.randint(120, 240) for _ in range(2))
    if max(width, height) > 1.4 * min(width, height):
        width = height
    side = min(width, height)
    kinds = rng.sample(KINDS, rng.randint(1, len(KINDS)))
    colors = rng.sample(list(COLORS), rng.randint(1, len(COLORS)))
    shapes: list[Shape] = []
    for _ in range(rng.randint(1, MOST)):
        radius = rng.uniform(0.11, 0.16)
        place = _free_place(rng, (width / side, height / side), radius, shapes)
        if place is not None:
            kind = rng.choice(kinds)
            turn = rng.uniform(-14, 14)
            shapes.append(Shape(kind, rng.choice(colors), *place, radius, turn))
    return Scene(width, height, tuple(shapes))


def _free_place(
    rng: random.Random, edges: tuple[float, float], radius: float, shapes: list[Shape]
) -> tuple[float, float] | None:
    for _ in range(ATTEMPTS):
        x, y = (rng.uniform(1.1 * radius, edge - 1.1 * radius) for edge in edges)
        if all(math.hypot(x - s.x, y - s.y) > 1.15 * (radius + s.radius) for s in shapes):
            return x, y
    return None


def draw(scene: Scene, rng: random.Random) -> Image.Image:
    """`rng`: for the paper and small differences in color."""
    image = _paper(rng, scene.width, scene.height)
    pen, side = ImageDraw.Draw(image), min(scene.width, scene.height)
    for shape in scene.shapes:
        x, y, radius = (side * size for size in (shape.x, shape.y, shape.radius))
        fill = _near(rng, COLORS[shape.color])
        if shape.kind == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
        else:
            corners = _corners(shape)
            pen.polygon([(x + radius * a, y + radius * b) for a, b in corners], fill)
    return image


def _corners(shape: Shape) -> list[tuple[float, float]]:
    """Of a shape of radius 1 around (0, 0)."""
    count, first = {"square": (4, 45.0), "triangle": (3, -90.0)}[shape.kind]
    angles = [math.radians(first + shape.turn + 360 / count * corner) for corner in range(count)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _paper(rng: random.Random, width: int, height: int, grain: float = 6.0) -> Image.Image:
    """An empty picture in RGB: a pale color with `grain`, the deviation of its gray levels."""
    pale = np.array([rng.randint(215, 250) for _ in range(3)], np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((height, width, 1))
    return Image.fromarray(np.clip(pale + grain * noise, 0, 255).astype(np.uint8))


def _near(rng: random.Random, color: Color, most: int = 18) -> Color:
    """`color` with each part off by up to `most`."""
    red, green, blue = (min(255, max(0, part + rng.randint(-most, most))) for part in color)
    return red, green, blue
