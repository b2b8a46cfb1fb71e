"""Audio as the rest of the engine has it: mono samples at the model's rate, and what is missing."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Reason = Literal["undecodable", "missing", "digital silence", "no speech"]
MERGE_SECONDS = 0.5  # spans no further apart than this are reported as one


@dataclass(frozen=True)
class Skipped:
    """A part of a recording that has no text, in seconds from its start, and why.

    "undecodable": the file is damaged there. "missing": the file holds nothing there, because that
    part was lost or never written, or because it ends before its header says. "digital silence":
    nothing was recorded there. "no speech": nothing was said, by the search for speech or by the
    model, which has no text for it.
    """

    start: float
    end: float
    reason: Reason


@dataclass(frozen=True)
class Sound:
    """A recording as mono float32 `samples` [n] in [-1, 1] at the model's rate.

    `skipped`: the lost spans. They are silence in `samples`, so all times are the recording's own.
    """

    samples: np.ndarray
    skipped: list[Skipped] = field(default_factory=list)


def merged(spans: list[Skipped]) -> list[Skipped]:
    """The spans in order, with neighbors of the same reason joined."""
    joined: list[Skipped] = []
    for span in sorted(spans, key=lambda span: span.start):
        last = joined[-1] if joined else None
        if last and last.reason == span.reason and span.start - last.end <= MERGE_SECONDS:
            joined[-1] = Skipped(last.start, max(last.end, span.end), span.reason)
        else:
            joined.append(span)
    return joined
