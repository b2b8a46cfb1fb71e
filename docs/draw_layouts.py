"""Draw docs/layouts.svg: what two GPUs hold in each layout, and what moves between them.

    python docs/draw_layouts.py

Legible on light and on dark pages. `tests/test_docs.py` holds that the file is what this script
draws.
"""

from pathlib import Path
from typing import NamedTuple

from svg import GRAY, arrow, document, rectangle, text

PICTURE = Path(__file__).with_name("layouts.svg")
WIDTH, HEIGHT = 960, 476
GPU_WIDTH, GPU_HEIGHT, PART_HEIGHT = 150, 124, 40
GAP = 136  # between the GPUs of a layout, in which an arrow has its label
ENCODER, DECODER = ("#dbe9fb", "#4f86cf"), ("#dcf3e3", "#3f9b5f")


class Layout(NamedTuple):
    """Two GPUs with their parts, from top to bottom, and arrows: the row of parts at which one is,
    its label, and whether it goes both ways."""

    title: str
    options: str
    gpus: tuple[tuple[str, ...], tuple[str, ...]]
    arrows: tuple[tuple[int, str, bool], ...] = ()


LAYOUTS = (
    Layout(
        "Colocated replicas",
        "placement=colocated, 2 replicas of each half",
        (("encoder", "decoder"), ("encoder", "decoder")),
    ),
    Layout(
        "Encoders apart from decoders",
        "placement=disaggregated",
        (("encoder",), ("decoder",)),
        ((0, "hidden states, once", False),),
    ),
    Layout(
        "Tensor parallel",
        "decoder_tensor_parallel_size=2, colocated",
        (("encoder", "decoder, half of each layer"), ("encoder", "decoder, half of each layer")),
        ((0, "hidden states, once", True), (1, "2 or 3 sums a layer", True)),
    ),
    Layout(
        "Pipeline stages",
        "decoder_pipeline_parallel_size=2, colocated",
        (("encoder", "decoder, first layers"), ("encoder", "decoder, last layers")),
        ((0, "hidden states, once", True), (1, "stream →  ← tokens", True)),
    ),
)


def draw() -> str:
    """The whole picture as SVG text."""
    places = [(20 + 480 * (number % 2), 20 + 246 * (number // 2)) for number in range(len(LAYOUTS))]
    layouts = [_layout(x, y, one) for (x, y), one in zip(places, LAYOUTS, strict=True)]
    return document(WIDTH, HEIGHT, "What two GPUs hold in each layout", *layouts)


def _layout(x: int, y: int, layout: Layout) -> str:
    top = y + 60
    elements = [
        text(x, y + 18, layout.title, size=16, weight=600),
        text(x, y + 38, layout.options, size=12),
    ]
    for number, parts in enumerate(layout.gpus):
        elements += _gpu(x + number * (GPU_WIDTH + GAP), top, number, parts)
    left, right = x + GPU_WIDTH, x + GPU_WIDTH + GAP
    for row, label, both_ways in layout.arrows:
        middle = _part_top(top, row) + PART_HEIGHT // 2
        elements.append(text((left + right) // 2, middle - 8, label, size=10.5, anchor="middle"))
        elements.append(arrow((left + 4, middle), (right - 4, middle)))
        if both_ways:
            elements.append(arrow((right - 4, middle), (left + 4, middle)))
    return "\n".join(elements)


def _gpu(x: int, y: int, number: int, parts: tuple[str, ...]) -> list[str]:
    elements = [
        rectangle(x, y, GPU_WIDTH, GPU_HEIGHT, fill="none", border=GRAY),
        text(x + GPU_WIDTH // 2, y + GPU_HEIGHT + 18, f"GPU {number}", anchor="middle"),
    ]
    for row, part in enumerate(parts):
        name, _, share = part.partition(", ")
        top, (fill, border) = _part_top(y, row), ENCODER if name == "encoder" else DECODER
        elements.append(
            rectangle(x + 8, top, GPU_WIDTH - 16, PART_HEIGHT, fill=fill, border=border, radius=6)
        )
        middle, first = x + GPU_WIDTH // 2, top + (18 if share else 25)
        elements.append(
            text(middle, first, name, size=13, weight=600, color="#16202c", anchor="middle")
        )
        if share:
            elements.append(
                text(middle, first + 15, share, size=11, color="#26323f", anchor="middle")
            )
    return elements


def _part_top(y: int, row: int) -> int:
    return y + 14 + row * (PART_HEIGHT + 16)


if __name__ == "__main__":
    PICTURE.write_text(draw())
