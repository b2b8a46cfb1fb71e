"""Sound as the rest of the engine has it: mono samples at the model's rate, and what is missing."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Reason = Literal["undecodable", "missing", "digital silence"]
MERGE_SECONDS = 0.5  # spans no further apart than this are told as one


@dataclass(frozen=True)
class Skipped:
    """A part of a recording that has no text, in seconds from its start, and why.

    "undecodable": the file is damaged there. "missing": it holds nothing there, because that was
    lost or never written, or it ends before its header says. "digital silence": no sound there.
    """

    start: float
    end: float
    reason: Reason


@dataclass(frozen=True)
class Sound:
    """`samples`: mono float32 [n] in [-1, 1] at the model's rate. `skipped`: spans that
    are lost. They are silence in `samples`, so that all times are the recording's own."""

    samples: np.ndarray
    skipped: list[Skipped] = field(default_factory=list)


def merged(spans: list[Skipped]) -> list[Skipped]:
    """In order, neighbours with the same reason as one."""
    together: list[Skipped] = []
    for span in sorted(spans, key=lambda each: each.start):
        last = together[-1] if together else None
        if last and last.reason == span.reason and span.start - last.end <= MERGE_SECONDS:
            together[-1] = Skipped(last.start, max(last.end, span.end), span.reason)
        else:
            together.append(span)
    return together
