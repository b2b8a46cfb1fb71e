"""Draw docs/architecture.svg: the parts of an engine and how a request passes through them.

    python docs/draw_architecture.py

Boxes have their own background and everything else is a medium gray, so that the picture can be
read on light and on dark pages. `tests/test_docs.py` holds that the file is what this script draws
and that every part which it names exists.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from svg import MONO, arrow, document, rectangle, text

PICTURE = Path(__file__).with_name("architecture.svg")
WIDTH, HEIGHT = 960, 470


class Colors(NamedTuple):
    fill: str
    border: str


BLUE, GREEN = Colors("#dbe9fb", "#4f86cf"), Colors("#dcf3e3", "#3f9b5f")
YELLOW, VIOLET = Colors("#fdf1cf", "#c79a22"), Colors("#ebe3fa", "#8262c4")
WHITE_IN_BLUE, WHITE_IN_GREEN = BLUE._replace(fill="#ffffff"), GREEN._replace(fill="#ffffff")


@dataclass(frozen=True)
class Box:
    """A part: its place in pixels, its title, what it does, and the class that it stands for."""

    x: int
    y: int
    width: int
    height: int
    colors: Colors
    title: str
    source: str  # "file : class"; the file is shown
    lines: tuple[str, ...] = ()
    replicated: bool = False  # drawn as a stack: there may be several

    def svg(self) -> str:
        left, top, (fill, border) = self.x + 12, self.y + 22, self.colors
        frames = [
            rectangle(
                *(self.x + shift, self.y - shift, self.width, self.height), fill=fill, border=border
            )
            for shift in ((10, 5, 0) if self.replicated else (0,))
        ]
        title = text(left, top, self.title, size=15, weight=600, color="#16202c")
        lines = [
            text(left, top + 18 * row, line, color="#26323f")
            for row, line in enumerate(self.lines, start=1)
        ]
        file = self.source.split(" : ")[0]
        bottom = top + 18 * (len(lines) + 1)
        source = text(left, bottom, file, size=11, color="#52606e", font=MONO)
        return "\n".join([*frames, title, *lines, source])


ENGINE = Box(
    *(20, 50, 206, 400), BLUE, "Engine", "engine/sync_engine.py : Engine", ("what a program uses",)
)
INPUTS = Box(
    *(34, 126, 178, 92),
    WHITE_IN_BLUE,
    "inputs",
    "inputs/processor.py : InputProcessor",
    ("sound → samples", "text → token ids"),
)
ROUTER = Box(
    *(34, 232, 178, 92),
    WHITE_IN_BLUE,
    "router",
    "scheduler/router.py : Router",
    ("least load, or where", "the content already is"),
)
REQUESTS = Box(
    *(34, 338, 178, 92),
    WHITE_IN_BLUE,
    "open requests",
    "engine/requests.py : OpenRequests",
    ("token ids → text, then", "a result or a typed error"),
)
DECODER = Box(
    *(372, 50, 560, 252),
    GREEN,
    "decoder worker",
    "actors/decoder_worker.py : DecoderWorker",
    replicated=True,
)
SCHEDULE = Box(
    *(388, 106, 164, 92),
    WHITE_IN_GREEN,
    "schedule",
    "scheduler/scheduler.py : Scheduler",
    ("who runs, in which", "pages; what to encode"),
)
RUN = Box(
    *(570, 106, 164, 92),
    WHITE_IN_GREEN,
    "run",
    "decoder/runner.py : DecoderRunner",
    ("one forward and one", "token for each"),
)
POSTPROCESS = Box(
    *(752, 106, 164, 92),
    WHITE_IN_GREEN,
    "postprocess",
    "decoder/replica.py : DecoderReplica",
    ("append, finish,", "free pages"),
)
POOL = Box(
    *(388, 232, 528, 54),
    YELLOW,
    "one pool of pages for self-attention and cross-attention KV",
    "kv/pool.py : KVPool",
)
ENCODER = Box(
    *(372, 376, 560, 74),
    VIOLET,
    "encoder worker",
    "encoder/runner.py : EncoderRunner",
    ("one packed forward for every input that waits: hidden states [tokens, hidden]",),
    replicated=True,
)
BOXES = (ENGINE, INPUTS, ROUTER, REQUESTS, DECODER, SCHEDULE, RUN, POSTPROCESS, POOL, ENCODER)


def connections() -> list[str]:
    return [
        arrow((226, 150), (370, 150)),
        text(299, 141, "request", anchor="middle"),
        arrow((372, 270), (228, 270)),
        text(299, 261, "new tokens,", anchor="middle"),
        text(299, 288, "once a step", anchor="middle"),
        arrow((552, 152), (569, 152)),
        arrow((734, 152), (751, 152)),
        arrow((834, 198), (834, 215), (470, 215), (470, 200)),
        arrow((500, 302), (500, 364)),
        text(488, 328, "asks for the content", anchor="end"),
        text(488, 345, "that it does not hold", anchor="end"),
        arrow((780, 366), (780, 304)),
        text(768, 328, "hidden states,", anchor="end"),
        text(768, 345, "straight to the decoder", anchor="end"),
    ]


def draw() -> str:
    """The picture, as the text of an SVG file."""
    workers = "Ray actors on any node, replicas of each; or threads of your program (ray=False)"
    return document(
        *(WIDTH, HEIGHT, "Architecture of Antiphon"),
        text(20, 28, "your program"),
        text(372, 28, workers),
        *(box.svg() for box in BOXES),
        *connections(),
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"wrote {PICTURE}")
