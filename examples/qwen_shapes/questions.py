"""Questions about a scene, with their answers."""

import random
from collections.abc import Callable

from antiphon.examples.pictures.shapes import COLORS, KINDS, MOST, Scene

Asked = tuple[str, str]  # a question and its answer
NUMBERS = ("zero", "one", "two", "three", "four")
assert len(NUMBERS) == MOST + 1


def how_many(scene: Scene, rng: random.Random) -> Asked:
    return "How many shapes are there?", NUMBERS[scene.count()]


def how_many_of_kind(scene: Scene, rng: random.Random) -> Asked:
    kind = _one_of(rng, [shape.kind for shape in scene.shapes], KINDS)
    return f"How many {kind}s are there?", NUMBERS[scene.count(kind)]


def how_many_of_color(scene: Scene, rng: random.Random) -> Asked:
    color = _one_of(rng, [shape.color for shape in scene.shapes], list(COLORS))
    return f"How many {color} shapes are there?", NUMBERS[scene.count(color=color)]


def which_color(scene: Scene, rng: random.Random) -> Asked | None:
    alone = [shape for shape in scene.shapes if scene.count(shape.kind) == 1]
    if not alone:
        return None
    shape = rng.choice(alone)
    return f"Which color is the {shape.kind}?", shape.color


def which_kind(scene: Scene, rng: random.Random) -> Asked | None:
    alone = [shape for shape in scene.shapes if scene.count(color=shape.color) == 1]
    if not alone:
        return None
    shape = rng.choice(alone)
    return f"What is the {shape.color} shape?", f"a {shape.kind}"


def is_there(scene: Scene, rng: random.Random) -> Asked:
    shape = rng.choice(scene.shapes)
    kind, color = shape.kind, shape.color
    if rng.random() < 0.5:  # often a kind and a color that are there, but not together
        kind = _one_of(rng, [other.kind for other in scene.shapes], KINDS)
        color = _one_of(rng, [other.color for other in scene.shapes], list(COLORS))
    answer = "yes" if scene.count(kind, color) else "no"
    return f"Is there a {color} {kind}?", answer


def what(scene: Scene, rng: random.Random) -> Asked:
    """Kinds and colors in the order of `KINDS` and `COLORS`."""
    groups = [(scene.count(kind, color), kind, color) for kind in KINDS for color in COLORS]
    named = [
        f"{NUMBERS[count]} {color} {kind}{'s' if count > 1 else ''}"
        for count, kind, color in groups
        if count
    ]
    return "What is in the picture?", ", ".join(named)


QUESTIONS: tuple[Callable[[Scene, random.Random], Asked | None], ...] = (
    how_many, how_many_of_kind, how_many_of_color, which_color, which_kind, is_there, what,
)  # fmt: skip


def _one_of(rng: random.Random, present: list[str], all_: list[str] | tuple[str, ...]) -> str:
    return rng.choice(present) if rng.random() < 0.7 else rng.choice(all_)
