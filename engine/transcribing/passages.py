"""What is heard of a recording: spans of its samples as one piece of sound."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from antiphon.inputs.audio.cuts import cut_at_quiet
from antiphon.inputs.audio.voice_activity import Span


@dataclass(frozen=True)
class Passage:
    """`samples` [n] are those of `spans`, in samples of the recording, one behind the other."""

    samples: np.ndarray
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, recording: np.ndarray, spans: Iterable[Span]) -> "Passage":
        spans = tuple(spans)
        parts = [recording[first:last] for first, last in spans]
        return cls(parts[0] if len(parts) == 1 else np.concatenate([recording[:0], *parts]), spans)

    def part(self, first: int, last: int) -> "Passage":
        """Its samples from `first` up to `last`."""
        spans: list[Span] = []
        begin = 0  # of the span, among the samples
        for start, end in self.spans:
            low, high = max(first - begin, 0), min(last - begin, end - start)
            if low < high:
                spans.append((start + low, start + high))
            begin += end - start
        return Passage(self.samples[first:last], tuple(spans))


def split_at_quiet(
    spans: Iterable[Span], recording: np.ndarray, longest: int, rate: int
) -> Iterator[Span]:
    """`spans`, none longer than `longest` samples; neighbors overlap where there is no pause."""
    for start, end in spans:
        for first, last in cut_at_quiet(recording[start:end], longest, rate, overlaps=True):
            yield start + first, start + last


def joined_up_to(longest: int, spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Neighbors together, as long as they are no more than `longest` samples."""
    group: list[Span] = []
    size = 0
    for start, end in spans:
        if group and size + end - start > longest:
            yield group
            group, size = [], 0
        group.append((start, end))
        size += end - start
    if group:
        yield group
