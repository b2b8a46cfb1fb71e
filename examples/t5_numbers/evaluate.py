"""Exact-match accuracy of the shipped T5 on numbers that training never saw, through the engine.

python examples/t5_numbers/evaluate.py
"""

import random
from pathlib import Path

from train import PREFIX, draw, in_words, is_held_out

from antiphon import Engine


def held_out(count: int) -> list[int]:
    """The same `count` numbers in every run; none of them was trained on."""
    rng = random.Random(99)
    numbers: list[int] = []
    while len(numbers) < count:
        number = draw(rng)
        if is_held_out(number):
            numbers.append(number)
    return numbers


def accuracy(engine: Engine, count: int) -> float:
    """The share of `count` held-out numbers that are written exactly right, from 0 to 1."""
    numbers = held_out(count)
    outputs = engine.generate([f"{PREFIX}{number}" for number in numbers], use_tqdm=False)
    right = sum(
        output.outputs[0].text == in_words(number)
        for number, output in zip(numbers, outputs, strict=True)
    )
    return right / count


if __name__ == "__main__":
    with Engine(str(Path(__file__).parent / "model")) as engine:
        print(f"exact matches: {100 * accuracy(engine, 1000):.1f} % of 1000")
