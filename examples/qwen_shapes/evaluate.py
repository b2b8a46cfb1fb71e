"""Exact answers of the shipped Qwen2.5-VL about pictures that training never saw, through the
engine.

    python examples/qwen_shapes/evaluate.py [OPTION=VALUE ...]
"""

import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from antiphon import Engine
from antiphon.cli.pairs import parse_pairs
from antiphon.examples.pictures.shapes import draw, random_scene
from antiphon.examples.qwen_shapes.questions import QUESTIONS

HELD_OUT = 500


@dataclass(frozen=True)
class Asked:
    kind: str
    picture: Image.Image
    question: str
    answer: str

    def chat(self, question: str) -> list[dict[str, Any]]:
        """One message: the picture and `question`."""
        parts = [{"type": "image", "image": self.picture}, {"type": "text", "text": question}]
        return [{"role": "user", "content": parts}]


def held_out(count: int) -> list[Asked]:
    """The same `count` pictures in every run, with a question each; the kinds of questions take
    turns."""
    asked: list[Asked] = []
    for number in range(count):
        rng = random.Random(f"held out {number}")
        ask = QUESTIONS[number % len(QUESTIONS)]
        while (pair := ask(scene := random_scene(rng), rng)) is None:
            continue
        asked.append(Asked(ask.__name__, draw(scene, rng), *pair))
    return asked


def exact(engine: Engine, count: int = HELD_OUT) -> dict[str, float]:
    """The share of exactly right answers, from 0 to 1: of each kind of question, and of "all"."""
    asked = held_out(count)
    outputs = engine.chat([case.chat(case.question) for case in asked], use_tqdm=False)
    right, total = Counter[str](), Counter[str]()
    for case, output in zip(asked, outputs, strict=True):
        for kind in (case.kind, "all"):
            right[kind] += output.outputs[0].text == case.answer
            total[kind] += 1
    return {kind: right[kind] / total[kind] for kind in total}


def main() -> None:
    model = Path(__file__).parent / "model"
    with Engine(str(model), **parse_pairs(sys.argv[1:], "engine option")) as engine:
        for kind, share in exact(engine).items():
            print(f"{kind:20} {100 * share:5.1f} %")


if __name__ == "__main__":
    main()
