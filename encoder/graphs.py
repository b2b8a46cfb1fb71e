"""CUDA graphs of an encoder: for sound one for each number of windows, all equally long; for text one for each number of tokens that
batches are padded to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from antiphon.attention.interface import FullBatch
from antiphon.runtime.device import together_to_device
from antiphon.runtime.graphs import GraphSet, Work

MOST_TOKENS = (
    8192  # of a text graph; a larger batch takes the device longer than the host needs to launch it
)
SMALL = 1024  # tokens up to which padding costs no time, because even a small model's kernels are launched no faster
TOKENS_PER_SEQUENCE = 64  # that a text graph has room for: each sequence is worth a row of attention programs, there or not
LEAST_SEQUENCES = 8


class WindowGraphs:
    """`forward` turns samples into hidden states; `plan` makes the attention's plan for a number of windows."""

    def __init__(
        self,
        forward: Callable[[torch.Tensor, Any], torch.Tensor],
        plan: Callable[[int], Any],
        samples: torch.Tensor,
        hidden: torch.Tensor,
        model: nn.Module,
    ) -> None:
        """`samples` [most windows, samples] is what the graphs read, `hidden` [most windows, tokens, hidden] what they write; their
        content does not matter here."""
        self.samples, self.hidden = samples, hidden

        def batch(windows: int) -> tuple[Any, Work]:
            made = plan(windows)
            return (
                made,
                lambda: hidden[:windows].flatten(0, 1).copy_(forward(samples[:windows], made)),
            )

        counts = range(len(samples), 0, -1)
        self._graphs = GraphSet("encoder", samples.device, model, counts, batch)
        self.report = self._graphs.report

    def replay(self, samples: torch.Tensor) -> torch.Tensor | None:
        """Hidden states of `samples` [windows, samples], a copy of their own; None for more windows than there is a graph for."""
        windows = len(samples)
        if windows not in self._graphs.shapes:
            return None
        self.samples[:windows].copy_(samples)
        self._graphs.replay(windows)
        return self.hidden[:windows].flatten(0, 1).clone()


@dataclass(frozen=True)
class TextShape:
    tokens: int
    sequences: int  # at most


def text_shapes(most_tokens: int) -> list[TextShape]:
    """Up to `most_tokens`, smallest first; padding to the next is an eighth at most, or 32 tokens."""
    sizes = [32]
    while sizes[-1] < most_tokens:
        sizes.append(sizes[-1] + max(32, sizes[-1] // 8 // 32 * 32))
    return [
        TextShape(min(size, most_tokens), max(LEAST_SEQUENCES, size // TOKENS_PER_SEQUENCE))
        for size in sizes
    ]


def fitting(lengths: np.ndarray, available: list[TextShape]) -> TextShape | None:
    """The smallest of `available` that holds sequences of these `lengths`; None where the padding would cost more than a graph saves."""
    tokens = int(lengths.sum())
    found = next(
        (
            shape
            for shape in available
            if shape.tokens >= tokens and shape.sequences >= len(lengths)
        ),
        None,
    )
    return found if found is not None and found.tokens <= max(SMALL, 2 * tokens) else None


class TextGraphs:
    """`forward` turns token ids, positions and the attention's plan into hidden states. Padding is tokens of no sequence: attention
    leaves their rows alone, and nobody reads them."""

    def __init__(
        self,
        forward: Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor],
        plan: Callable[[FullBatch], Any],
        hidden: torch.Tensor,
        max_len: int,
        model: nn.Module,
    ) -> None:
        """`hidden` [most tokens, hidden] is what the graphs write; `max_len` of a sequence. `plan` must suit any lengths."""
        device = hidden.device
        self.shapes = text_shapes(len(hidden))
        self._hidden = hidden
        self._ids, self._positions = (
            torch.zeros(len(hidden), dtype=torch.int64, device=device) for _ in range(2)
        )
        self._cu_seqlens = torch.zeros(
            self.shapes[-1].sequences + 1, dtype=torch.int32, device=device
        )

        def batch(shape: TextShape) -> tuple[Any, Work]:
            tokens, longest = shape.tokens, min(shape.tokens, max_len)
            lengths = np.full(shape.sequences, longest)
            made = plan(FullBatch(lengths, self._cu_seqlens[: shape.sequences + 1], longest))
            return made, lambda: hidden[:tokens].copy_(
                forward(self._ids[:tokens], self._positions[:tokens], made)
            )

        self._graphs = GraphSet("encoder", device, model, self.shapes[::-1], batch)
        self.report = self._graphs.report

    def replay(
        self, ids: np.ndarray, positions: np.ndarray, lengths: np.ndarray
    ) -> torch.Tensor | None:
        """Hidden states [tokens, hidden] of packed `ids`, a copy of their own; None where no graph fits `lengths`."""
        shape = fitting(lengths, self.shapes)
        if shape is None:
            return None
        starts = np.full(
            shape.sequences + 1, len(ids), np.int32
        )  # of sequences that are not there: empty, at the end
        starts[: len(lengths)] = np.cumsum(lengths) - lengths
        places = (self._ids, self._positions, self._cu_seqlens)
        for place, new in zip(
            places, together_to_device([ids, positions, starts], self._hidden.device), strict=True
        ):
            place[: len(new)].copy_(new)
        self._graphs.replay(shape)
        return self._hidden[: len(ids)].clone()
