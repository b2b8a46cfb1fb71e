"""Draw docs/throughput.svg: clips a second beside other engines, from benchmarks/results/.

    python docs/draw_throughput.py

Bars and letters are legible on light and on dark pages. `tests/test_docs.py` holds that the file is
what this script draws from the results.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from svg import GRAY, document, rectangle, text

PICTURE = Path(__file__).with_name("throughput.svg")
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
OWN = (
    ("Antiphon, float8, 512 slots", "2026-11-23-h200-4-throughput-large-v3-fp8.json"),
    ("Antiphon, bfloat16, 256 slots", "2026-11-23-h200-4-throughput-large-v3-bf16.json"),
)
PEERS = "2026-11-26-h200-peers.json"
TITLE = "whisper-large-v3 on one H200: clips of 30 s per second, 64 tokens each, offline"
NOTE = "random weights, one run each; sources: benchmarks/results/ (see docs/performance.md)"
WIDTH, LEFT, TOP, STEP = 860, 330, 46, 32  # pixels


@dataclass(frozen=True)
class Bar:
    label: str
    clips: float  # a second
    color: str


def bars() -> list[Bar]:
    """Fastest first; of several runs of one setting, the fastest of another engine's."""
    own = [Bar(label, _rows(file)[0]["requests/s"], "#3f8fd2") for label, file in OWN]
    peers: dict[str, float] = {}
    for row in _rows(PEERS):
        label = f"{row['engine']}, {row['setting']}"
        peers[label] = max(row["requests/s"], peers.get(label, 0))
    others = [Bar(label, clips, "#a0a7b0") for label, clips in peers.items()]
    return sorted([*own, *others], key=lambda bar: -bar.clips)


def _rows(file: str) -> list[dict]:
    return json.loads((RESULTS / file).read_text())["rows"]


def draw() -> str:
    """The picture, as the text of an SVG file."""
    drawn = bars()
    scale = (WIDTH - LEFT - 60) / max(bar.clips for bar in drawn)
    elements = [text(20, 24, TITLE, size=15, weight=600)]
    for row, bar in enumerate(drawn):
        y, length = TOP + STEP * row, round(bar.clips * scale)
        elements += [
            text(LEFT - 10, y + 15, bar.label, anchor="end", size=13),
            rectangle(LEFT, y, length, 22, fill=bar.color, radius=3),
            text(LEFT + length + 8, y + 16, f"{bar.clips:.0f}", size=13, weight=600, color=GRAY),
        ]
    bottom = TOP + STEP * len(drawn) + 16
    return document(WIDTH, bottom + 12, TITLE, *elements, text(20, bottom, NOTE, size=11))


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"wrote {PICTURE}")
