"""CUDA graphs of an audio encoder, one for each number of windows: all windows are equally long."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from antiphon.layers.graphs import GraphCapture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    plan: Any  # kept alive: the graph reads its tensors


class EncoderGraphs:
    """`forward` turns samples into hidden states; `plan` makes the attention's plan for a number of windows."""

    def __init__(
        self,
        forward: Callable[[torch.Tensor, Any], torch.Tensor],
        plan: Callable[[int], Any],
        samples: torch.Tensor,
        hidden: torch.Tensor,
    ) -> None:
        """`samples` [most windows, samples] is what the graphs read, `hidden` [most windows, tokens, hidden] what they write; their
        content does not matter here."""
        self.samples, self.hidden = samples, hidden
        self._captured: dict[int, _Captured] = {}
        capture = GraphCapture(samples.device)
        for windows in range(len(samples), 0, -1):
            made = plan(windows)

            def work(windows: int = windows, made: Any = made) -> None:
                hidden[:windows].flatten(0, 1).copy_(forward(samples[:windows], made))

            self._captured[windows] = _Captured(capture(work), made)
        self.report = capture.report
        logger.info("encoder: %s", self.report)

    def __contains__(self, windows: int) -> bool:
        return windows in self._captured

    def replay(self, samples: torch.Tensor) -> torch.Tensor:
        """Hidden states of `samples` [windows, samples]; a copy of their own."""
        windows = len(samples)
        self.samples[:windows].copy_(samples)
        self._captured[windows].graph.replay()
        return self.hidden[:windows].flatten(0, 1).clone()
