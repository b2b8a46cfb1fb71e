"""Exact-match accuracy of the shipped TrOCR on pictures that training never saw, by the engine.

python examples/trocr_digits/evaluate.py
"""

from pathlib import Path

from antiphon import Engine
from antiphon.examples.trocr_digits.train import held_out


def accuracy(engine: Engine, count: int) -> float:
    """The share of `count` held-out pictures whose number is read exactly right, from 0 to 1."""
    drawings = held_out(count)
    prompts = [{"multi_modal_data": {"image": drawn.picture}} for drawn in drawings]
    outputs = engine.generate(prompts, use_tqdm=False)
    right = sum(
        output.outputs[0].text == drawn.number
        for drawn, output in zip(drawings, outputs, strict=True)
    )
    return right / count


if __name__ == "__main__":
    with Engine(str(Path(__file__).parent / "model")) as engine:
        print(f"exact matches: {100 * accuracy(engine, 500):.1f} % of 500")
